"""Who may ask: the right host name, the right origin, the token; and headers that keep pages apart.

A page from elsewhere that is open in the user's browser can reach this server, too. It is kept out thrice:
``Host`` has to be ours, or a foreign name leads here (DNS rebinding); requests that change something have to
come from our own page or from no page at all (``Sec-Fetch-Site``, ``Origin``); and no answer may be read,
framed or embedded by others.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recon3d.serve.problems import answer
from recon3d.serve.settings import ServeSettings

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ANYWHERE = frozenset({"0.0.0.0", "::"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
#: For answers that state none of their own: they may do nothing at all.
NO_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_COOKIE_SECONDS = 30 * 86400


class Guard:
    """ASGI middleware in front of everything else."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        """Note whom to let through to ``app``."""
        self._app, self._settings = app, settings
        self._hosts = _host_names(settings)
        self._token = settings.token.encode() if settings.token else None
        # Cookies do not tell ports apart, and must not give the token away.
        self._cookie = f"recon3d-{settings.port}"
        self._pass = hmac.new(self._token, b"recon3d page", hashlib.sha256).hexdigest() if self._token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", NO_POLICY)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that does not get through."""
        headers = Headers(scope=scope)
        if not self._is_host(headers.get("host", "")):
            return answer(421, "this server is not called so; --allow-host NAME lets it be")
        if scope["method"] not in _SAFE and not self._is_own(headers):
            return answer(403, "a page of another site may not do this")
        if self._token is None:
            return None
        return self._first_visit(scope) or (None if self._is_known(headers) else self._unknown(scope))

    def _is_host(self, header: str) -> bool:
        try:
            name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._hosts:
            return True
        # Names can be made to lead here by whoever owns them; addresses cannot.
        return self._settings.host in _ANYWHERE and _is_address(name)

    def _is_own(self, headers: Headers) -> bool:
        site = headers.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()

    def _is_known(self, headers: Headers) -> bool:
        assert self._token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._pass.encode())

    def _first_visit(self, scope: Scope) -> Response | None:
        """Exchange the token in the page's address for a cookie, so that it does not stay in the address."""
        if scope["path"] != "/" or scope["method"] != "GET" or self._token is None:
            return None
        try:
            given = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=8).get("token", [""])[0]
        except ValueError:
            return None
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return None
        response: Response = RedirectResponse("/", 303)
        if Headers(scope=scope).get("sec-fetch-site") in ("cross-site", "same-site"):
            # Who follows a link from elsewhere is sent on without the cookie; from a page of ours, with it.
            response = HTMLResponse('<meta http-equiv="refresh" content="0; url=/">')
        response.set_cookie(
            self._cookie, self._pass, max_age=_COOKIE_SECONDS, httponly=True, samesite="strict"
        )
        return response

    def _unknown(self, scope: Scope) -> Response:
        headers = {"WWW-Authenticate": "Bearer"}
        if scope["path"] == "/":
            text = "This page needs its token: open the address that recon3d serve printed, ?token= included."
            return PlainTextResponse(text, 401, headers)
        return answer(401, "the token is missing or wrong; send Authorization: Bearer TOKEN", headers)


def _host_names(settings: ServeSettings) -> frozenset[str]:
    names = {name.lower().rstrip(".") for name in settings.allowed_hosts}
    if settings.host in _ANYWHERE:
        names |= {*_LOOPBACK, socket.gethostname().lower()}
    elif settings.host in _LOOPBACK:
        names |= _LOOPBACK
    else:
        names.add(settings.host.lower())
        if _is_address(settings.host) and ip_address(settings.host).is_loopback:
            names |= _LOOPBACK
    return frozenset(names)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
