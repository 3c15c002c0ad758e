"""The HTTP API of a real server: what it takes, refuses and gives back; no worker has anything to do here."""

from __future__ import annotations

import concurrent.futures
import http.client
import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import content_type_conformance, not_a_server_error, status_code_conformance
from schemathesis.specs.openapi.checks import response_schema_conformance
from serve_site import Site, served
from small_disk import files_of_at_most
from test_serve_parts import HOSTILE, encoded

from recon3d.serve.app import API
from recon3d.serve.schema import Kind, State
from recon3d.serve.storage import Stored, archive_stem

TOKEN = "correct-horse-battery"
PNG = encoded("PNG")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("serve") / "data"
    with served(data, max_jobs=400, max_upload=1_000_000, upload_stall=1.0) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("guarded") / "data", token=TOKEN) as running:
        yield running


def problem(response: Any, status: int) -> str:
    """The reason for which a request was refused: one line, and no path of ours."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (item,) = response.json().items()
    assert item[0] == "error" and item[1] and "\n" not in item[1] and "/tmp" not in item[1]
    return str(item[1])


def raw(site: Site, request: bytes, *, wait: float = 10.0) -> bytes:
    """Send bytes as they are, and return what comes back."""
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def leftovers(site: Site) -> list[str]:
    """Files and folders that belong to no job."""
    known = set(site.service.store.ids())
    folders = [path.name for path in site.service.storage.jobs.iterdir() if path.name not in known]
    return folders + [path.name for path in site.service.storage.incoming.iterdir()]


def finished(site: Site, name: str = "portrait.png") -> str:
    """A job that is done, with results on the disk."""
    job = site.submit(name, PNG)
    while (claimed := site.service.store.claim()) is not None and claimed.id != job:
        site.service.store.fail(claimed.id, "not wanted here")
    folder = site.service.storage.results(job) / "head"
    folder.mkdir(parents=True)
    (folder / "mesh.glb").write_bytes(b"glTF" + bytes(range(256)) * 8)
    other = site.service.storage.results(job) / "head.face2"
    other.mkdir()
    (other / "mesh.glb").write_bytes(b"glTF of the other")
    files = [
        Stored("mesh.glb", 1, "head", "mesh.glb", 2052),
        Stored("face2-mesh.glb", 2, "head.face2", "mesh.glb", 17),
    ]
    assert site.service.store.finish(job, files, 1)
    return job


# ---- uploading ----


def test_files_become_jobs_in_their_order(site: Site) -> None:
    names = ("b.png", "a.png", "b.png")
    response = site.send(*((name, PNG) for name in names), faces=2, formats=["glb", "obj,arkit"])
    assert response.status_code == 201
    jobs = response.json()["jobs"]
    assert [job["name"] for job in jobs] == list(names)
    assert len({job["id"] for job in jobs}) == 3
    assert jobs[0]["state"] == "waiting" and jobs[0]["kind"] == "photo" and jobs[0]["size"] == len(PNG)
    assert jobs[0]["options"]["faces"] == 2 and jobs[0]["options"]["formats"] == ["glb", "obj", "arkit"]
    assert [job["ahead"] - jobs[0]["ahead"] for job in jobs] == [0, 1, 2]
    listed = site.ask("GET", "/jobs", params={"limit": 3}).json()
    assert [job["id"] for job in listed["jobs"]] == [job["id"] for job in reversed(jobs)]
    assert listed["total"] >= 3
    assert site.service.storage.upload(jobs[0]["id"]).read_bytes() == PNG
    assert leftovers(site) == []


@pytest.mark.parametrize("name", HOSTILE[:-1])
def test_names_are_text_and_nothing_else(site: Site, name: str) -> None:
    form = b'--B\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--B--\r\n'
    quoted = name.replace("\r\n", "%0D%0A").replace('"', "%22").encode()
    response = site.ask(
        "POST",
        "/jobs",
        data=form % (quoted, PNG),
        headers={"Content-Type": "multipart/form-data; boundary=B"},
    )
    if response.status_code != 201:
        assert len(name) > 4000 and response.status_code == 400  # headers have an end
        return
    (job,) = response.json()["jobs"]
    assert job["name"].isprintable() and not set("/\\") & set(job["name"])
    (folder,) = [path for path in site.service.storage.jobs.iterdir() if path.name == job["id"]]
    assert [path.name for path in folder.iterdir()] == ["upload"]
    assert leftovers(site) == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [(PNG, "video/mp4"), (PNG, "text/html"), (encoded("JPEG"), "application/x-sh"), (PNG, "")],
)
def test_content_types_count_for_nothing(site: Site, content: bytes, kind: str) -> None:
    response = site.ask("POST", "/jobs", files=[("files", ("take.mp4", content, kind))])
    assert response.status_code == 201 and response.json()["jobs"][0]["kind"] == "photo"


@pytest.mark.parametrize("content", [b"", b"GIF", b"#EXTM3U\nfile:///etc/passwd\n", PNG[:20], b"\x00" * 4096])
def test_what_is_neither_picture_nor_clip_is_refused(site: Site, content: bytes) -> None:
    before = site.ask("GET", "/jobs").json()["total"]
    text = problem(site.send(("good.png", PNG), ("bad.png", content)), 415)
    assert text.startswith("bad.png: ")
    assert site.ask("GET", "/jobs").json()["total"] == before  # all or none
    assert leftovers(site) == []


def test_too_much_is_refused_while_it_comes(site: Site) -> None:
    assert "more than the 1 MB" in problem(site.send(("big.png", PNG + bytes(1_100_000))), 413)
    # The same without an announcement of its size, in chunks; the server does not read on for ever.
    host, port = site.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(200):
            yield bytes(100_000)

    sent = {"Content-Type": "multipart/form-data; boundary=B"}
    try:
        connection.request("POST", f"{API}/jobs", endless(), sent, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up while we were still sending, which is what it should do
    else:
        assert connection.getresponse().status == 413
    connection.close()
    until = time.monotonic() + 10
    while leftovers(site) and time.monotonic() < until:
        time.sleep(0.05)
    assert leftovers(site) == []
    assert "more than 16 files" in problem(site.send(*[("a.png", PNG)] * 17), 413)
    assert leftovers(site) == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x", "text/plain", 415),
        (b"x", "multipart/form-data", 415),
        (b"x", "multipart/form-data; boundary=", 415),
        (b"", "multipart/form-data; boundary=B", 400),
        (b"--C\r\n", "multipart/form-data; boundary=B", 400),
        (b"--B\r\nX: y\r\n\r\nz\r\n--B--\r\n", "multipart/form-data; boundary=B", 400),
        (b"--B--\r\n", "multipart/form-data; boundary=B", 422),
        (
            b'--B\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + PNG,
            "multipart/form-data; boundary=B",
            400,
        ),
        (
            b'--B\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nx\r\n--B--\r\n',
            "multipart/form-data; boundary=B",
            422,
        ),
        (
            b'--B\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--B--\r\n',
            "multipart/form-data; boundary=B",
            422,
        ),
    ],
)
def test_forms_that_are_none(site: Site, body: bytes, kind: str, status: int) -> None:
    problem(site.ask("POST", "/jobs", data=body, headers={"Content-Type": kind}), status)
    assert leftovers(site) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"faces": "0"},
        {"faces": "many"},
        {"smooth": "nan"},
        {"smooth": "2"},
        {"formats": "exe"},
        {"formats": "../obj"},
        {"focal": "-1"},
        {"focal": "1e400"},
        {"refine": "perhaps"},
        {"out": "/etc"},
        {"focal": "9" * 2000},
    ],
)
def test_options_that_are_none(site: Site, fields: dict[str, str]) -> None:
    (name,) = fields
    assert name in problem(site.send(("a.png", PNG), **fields), 422)
    assert leftovers(site) == []


def test_an_upload_that_stops_coming_is_given_up(site: Site) -> None:
    head = f"POST {API}/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
    head += "Connection: close\r\nContent-Type: multipart/form-data; boundary=B\r\n\r\n"
    part = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nabc'
    begun = time.monotonic()
    answer = raw(site, head.encode() + part, wait=20)
    assert b" 408 " in answer.split(b"\r\n")[0] and time.monotonic() - begun < 10
    assert leftovers(site) == []


def test_an_upload_that_is_broken_off_leaves_nothing(site: Site) -> None:
    head = f"POST {API}/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n"
    head += "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    part = b'--B\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + bytes(300_000)
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + part)
        time.sleep(0.2)
    until = time.monotonic() + 10
    while leftovers(site) and time.monotonic() < until:
        time.sleep(0.05)
    assert leftovers(site) == []


def test_a_full_disk_is_told_before_and_during(tmp_path: Path) -> None:
    with served(tmp_path / "data", min_free=1 << 60) as full:
        assert "nearly full" in problem(full.send(("a.png", PNG)), 507)
        assert full.ask("GET", "/health").json()["status"] == "degraded"
    with served(tmp_path / "other") as small, files_of_at_most(100_000):
        assert "no room" in problem(small.send(("a.png", PNG + bytes(400_000))), 507)
        assert leftovers(small) == []


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    with served(tmp_path / "data", max_jobs=3) as small:
        assert small.send(("1.png", PNG), ("2.png", PNG)).status_code == 201
        for files in ([("3.png", PNG), ("4.png", PNG)], [("3.png", PNG)], [("4.png", PNG)]):
            response = small.send(*files)
            if len(files) == 1 and files[0][0] == "3.png":
                assert response.status_code == 201
                continue
            assert "3 jobs wait or run already" in problem(response, 429)
            assert int(response.headers["retry-after"]) > 0
        assert small.ask("GET", "/jobs").json()["total"] == 3 and leftovers(small) == []


def test_uploads_at_a_time_are_bounded(tmp_path: Path) -> None:
    with served(tmp_path / "data", max_uploads=1, upload_stall=20) as small:
        head = f"POST {API}/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n"
        head += "Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n"
        host, port = small.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head.encode())
            until = time.monotonic() + 10
            while (response := small.send(("a.png", PNG))).status_code == 201 and time.monotonic() < until:
                time.sleep(0.02)
            problem(response, 503)
        while (response := small.send(("a.png", PNG))).status_code == 503 and time.monotonic() < until:
            time.sleep(0.02)
        assert response.status_code == 201


def test_many_upload_at_once(site: Site) -> None:
    before = site.ask("GET", "/jobs").json()["total"]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda k: site.send((f"{k}.png", PNG)).status_code, range(24)))
    assert answers.count(201) + answers.count(503) == 24 and answers.count(201) >= 6
    assert site.ask("GET", "/jobs").json()["total"] == before + answers.count(201)
    assert leftovers(site) == []


# ---- jobs ----


def test_jobs_that_are_none(site: Site) -> None:
    for method, path in (
        ("GET", "/jobs/{}"),
        ("DELETE", "/jobs/{}"),
        ("POST", "/jobs/{}/cancel"),
        ("GET", "/jobs/{}/events"),
        ("GET", "/jobs/{}/archive"),
        ("GET", "/jobs/{}/files/mesh.glb"),
    ):
        problem(site.ask(method, path.format("0" * 32)), 404)
        problem(site.ask(method, path.format("nonsense")), 422)
    assert problem(site.ask("GET", "/nothing"), 404) == "Not Found"
    problem(site.ask("PUT", "/jobs"), 405)
    problem(site.ask("GET", "/jobs", params={"limit": 0}), 422)


def test_cancel_and_delete(site: Site) -> None:
    job = site.submit("a.png", PNG)
    cancelled = site.ask("POST", f"/jobs/{job}/cancel")
    assert cancelled.status_code == 200 and cancelled.json()["state"] == "cancelled"
    assert not site.service.storage.upload(job).exists()
    assert problem(site.ask("POST", f"/jobs/{job}/cancel"), 409).endswith("cancelled")
    assert problem(site.ask("GET", f"/jobs/{job}/archive"), 409).endswith("the job is cancelled")
    assert site.ask("DELETE", f"/jobs/{job}").status_code == 204
    problem(site.ask("DELETE", f"/jobs/{job}"), 404)
    problem(site.ask("GET", f"/jobs/{job}"), 404)
    assert job not in site.service.store.ids()


def test_events_tell_of_every_change_and_end(site: Site) -> None:
    job = site.submit("a.png", PNG)
    seen = []
    with site.ask("GET", f"/jobs/{job}/events", stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith(b"data: "):
                seen.append(json.loads(line[6:])["state"])
                if len(seen) == 1:
                    site.ask("POST", f"/jobs/{job}/cancel")
    assert seen == ["waiting", "cancelled"]


def test_event_streams_are_bounded(tmp_path: Path) -> None:
    with served(tmp_path / "data", max_streams=2) as small:
        job = small.submit("a.png", PNG)
        streams = [small.ask("GET", f"/jobs/{job}/events", stream=True) for _ in range(2)]
        assert [stream.status_code for stream in streams] == [200, 200]
        problem(small.ask("GET", f"/jobs/{job}/events"), 503)
        for stream in streams:
            stream.close()
        until = time.monotonic() + 10
        while (last := small.ask("GET", f"/jobs/{job}/events", stream=True)).status_code == 503:
            assert time.monotonic() < until
            time.sleep(0.05)
        last.close()


def test_old_jobs_are_deleted_on_schedule(tmp_path: Path) -> None:
    with served(tmp_path / "data", keep=1.0) as site:
        job = finished(site)
        waiting = site.submit("waits.png", PNG)
        assert site.job(job)["expires"] == pytest.approx(time.time() + 1, abs=1)
        assert site.ask("GET", f"/jobs/{job}/files/mesh.glb").status_code == 200
        until = time.monotonic() + 15
        while job in site.service.store.ids() and time.monotonic() < until:
            time.sleep(0.05)
        problem(site.ask("GET", f"/jobs/{job}"), 404)
        assert [path.name for path in site.service.storage.jobs.iterdir()] == [waiting]


# ---- results ----


def test_downloads(site: Site) -> None:
    job = finished(site, 'my "portrait" é.png')  # the quotes travel as %22
    assert site.job(job)["persons"] == 2
    response = site.ask("GET", f"/jobs/{job}/files/mesh.glb")
    assert response.status_code == 200 and response.content.startswith(b"glTF")
    assert response.headers["content-type"] == "model/gltf-binary"
    assert response.headers["content-disposition"].startswith(
        "attachment; filename*=utf-8''my%20_22portrait_22%20%C3%A9-mesh.glb"
    )
    assert response.headers["cache-control"] == "no-store"
    part = site.ask("GET", f"/jobs/{job}/files/mesh.glb", headers={"Range": "bytes=2-5"})
    assert part.status_code == 206 and part.content == response.content[2:6]
    assert site.ask("GET", f"/jobs/{job}/files/face2-mesh.glb").content == b"glTF of the other"
    archive = site.ask("GET", f"/jobs/{job}/archive")
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        stem = archive_stem(site.job(job)["name"])
        assert opened.namelist() == [f"{stem}/mesh.glb", f"{stem}.face2/mesh.glb"]


def test_jobs_that_are_deleted_while_they_are_downloaded(site: Site) -> None:
    """Whole, or not there, or broken off so that the client notices; never an error of the server's."""
    whole = {"files/mesh.glb": len(b"glTF") + 2048, "archive": None}

    def download(path: str) -> int:
        try:
            response = requests.get(f"{site.url}{API}{path}", timeout=20)
        except requests.exceptions.RequestException:
            return 0
        kind = path.split("/", 3)[-1]
        if response.status_code == 200 and whole[kind] is not None:
            assert len(response.content) == whole[kind]
        elif response.status_code == 200:
            assert zipfile.is_zipfile(io.BytesIO(response.content))
        return response.status_code

    seen = set()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for _ in range(12):
            job = finished(site)
            waiting = [pool.submit(download, f"/jobs/{job}/{kind}") for kind in (*whole, *whole, *whole)]
            pool.submit(site.ask, "DELETE", f"/jobs/{job}").result()
            seen |= {one.result() for one in waiting}
    assert seen <= {0, 200, 404}


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fupload", "..%2Fupload", "%2e%2e%2fupload", "../upload", "..\\upload", "upload",
        "/etc/passwd", "%2fetc%2fpasswd", "mesh.glb%00.jpg", "mesh.glb/", "head/mesh.glb", "MESH.GLB", "%00",
        "..", ".", "....//mesh.glb", "file:///etc/passwd", "face2-..%2fmesh.glb", "~", "CON",
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_results(site: Site, name: str) -> None:
    job = finished(site)
    for folder in (f"{API}/jobs/{job}/files", "/static", "/static/three"):
        request = f"GET {folder}/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = raw(site, request.encode())
        assert int(answer.split(b" ")[1]) in (400, 404, 422), answer
        assert b"root:" not in answer and PNG not in answer and b"glTF" not in answer


# ---- who may ask ----


def test_headers_keep_others_out(site: Site) -> None:
    for address in ("/", "/static/main.js", f"{API}/jobs", f"{API}/nothing", f"{API}/openapi.json"):
        response = site.session.get(site.url + address)
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in headers and "access-control-allow-origin" not in headers
    assert site.session.get(f"{site.url}/docs").status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost@evil.example"]
)
def test_foreign_names_do_not_lead_here(site: Site, host: str) -> None:
    for path in ("/", f"{API}/jobs"):
        answer = raw(site, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert b" 421 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST"])
def test_our_own_names_do(site: Site, host: str) -> None:
    assert site.ask("GET", "/version", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({}, 404),
    ],
)
def test_pages_of_others_change_nothing(site: Site, headers: dict[str, str], status: int) -> None:
    for method, path in (("DELETE", f"/jobs/{'0' * 32}"), ("POST", f"/jobs/{'0' * 32}/cancel")):
        problem(site.ask(method, path, headers=headers), status)


def test_the_token_opens_everything_and_nothing_goes_without(guarded: Site) -> None:
    for path in ("/", "/static/main.js", f"{API}/jobs", f"{API}/openapi.json", f"{API}/health"):
        assert guarded.session.get(guarded.url + path).status_code == 401
        for wrong in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer ü"):
            headers = {"Authorization": wrong.encode("latin-1")}
            assert guarded.session.get(guarded.url + path, headers=headers).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert guarded.session.get(guarded.url + path, headers=right).status_code == 200
    assert guarded.session.get(f"{guarded.url}{API}/jobs?token={TOKEN}").status_code == 401
    assert guarded.session.get(f"{guarded.url}/?token=wrong").status_code == 401
    assert guarded.session.get(f"{guarded.url}/?token=%ff").status_code == 401


def test_a_first_visit_exchanges_the_token_for_a_cookie(guarded: Site) -> None:
    with requests.Session() as browser:
        response = browser.get(f"{guarded.url}/?token={TOKEN}", allow_redirects=False)
        assert response.status_code == 303 and response.headers["location"] == "/"
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
        assert browser.get(guarded.url).status_code == 200
        assert browser.get(f"{guarded.url}{API}/jobs").status_code == 200
        elsewhere = {"Sec-Fetch-Site": "cross-site"}
        followed = browser.get(f"{guarded.url}/?token={TOKEN}", headers=elsewhere, allow_redirects=False)
        assert followed.status_code == 200 and 'content="0; url=/"' in followed.text
        assert "set-cookie" in followed.headers and TOKEN not in followed.text
        forged = {"Cookie": cookie.split(";")[0][:-1] + "0"}
        assert requests.get(f"{guarded.url}{API}/jobs", headers=forged).status_code == 401


# ---- the whole API, by its own document ----


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    response_schema_conformance,
    content_type_conformance,
]
WAYS = [
    ("/jobs", "POST"),
    ("/jobs", "GET"),
    ("/jobs/{id}", "GET"),
    ("/jobs/{id}", "DELETE"),
    ("/jobs/{id}/events", "GET"),
    ("/jobs/{id}/cancel", "POST"),
    ("/jobs/{id}/files/{name}", "GET"),
    ("/jobs/{id}/archive", "GET"),
    ("/health", "GET"),
    ("/version", "GET"),
]


@pytest.fixture(scope="module")
def schema(site: Site) -> Any:
    return schemathesis.openapi.from_url(f"{site.url}{API}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), WAYS)
def test_the_api_is_as_its_document_says(
    site: Site, schema: Any, path: str, method: str, mode: GenerationMode
) -> None:
    """Requests that are as they should be, and ones that are not, as the document tells them apart."""
    job, operation = finished(site), schema[API + path][method]
    if mode is GenerationMode.NEGATIVE and path in ("/health", "/version"):
        return  # there is nothing in them that could be wrong

    @given(case=operation.as_strategy(generation_mode=mode), ours=st.booleans())
    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, ours: bool) -> None:
        if ours and "{id}" in path:  # no chance would ever find it
            case.path_parameters["id"] = job
        case.call_and_validate(checks=CHECKS)

    check()


def test_the_document_knows_every_way_and_every_refusal(site: Site) -> None:
    document = site.session.get(f"{site.url}{API}/openapi.json").json()
    ways = {(path, method.upper()) for path, found in document["paths"].items() for method in found}
    assert ways == {(API + path, method) for path, method in WAYS}
    answers = document["paths"][f"{API}/jobs"]["post"]["responses"]
    assert {"201", "400", "408", "413", "415", "422", "429", "503", "507", "403", "421"} <= set(answers)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert State.done.value in document["components"]["schemas"]["State"]["enum"]
    assert Kind.clip.value in document["components"]["schemas"]["Kind"]["enum"]
