"""Jobs done by real workers, whatever becomes of them; and the page, in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import requests
import skimage.data
from browser import CHROMIUM, NO_CHROMIUM, Visit, chromium, visit
from face_clips import face_frames, wall_frames, write_clip
from PIL import Image
from playwright.sync_api import Browser, expect
from serve_site import PATIENCE, Site, served
from test_cli import SCRIPT

import recon3d
from recon3d.assets import THREE_JS, check_file
from recon3d.capture import Capture
from recon3d.serve.library import Library

pytestmark = pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")

#: So that the browser can draw in 3D without a graphics card.
GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_THREE = "three.js is not in the model cache: recon3d models --fetch"
CLIP_FRAMES, LONG_FRAMES = 40, 120


def portrait(format_name: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(buffer, format_name)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def clip(folder: Path) -> bytes:
    return write_clip(folder / "clip.mp4", face_frames(CLIP_FRAMES)).read_bytes()


@pytest.fixture(scope="module")
def long_clip(folder: Path) -> bytes:
    return write_clip(folder / "long.mp4", face_frames(LONG_FRAMES)).read_bytes()


@pytest.fixture(scope="module")
def queued(folder: Path) -> str:
    """A job that was taken by a server that ended before it was done."""
    with served(folder / "data") as before:
        job = before.submit("astronaut.png", portrait())
        assert before.job(job)["state"] == "waiting"
    return job


@pytest.fixture(scope="module")
def site(folder: Path, queued: str) -> Iterator[Site]:
    with served(folder / "data", workers=2, max_duration=8.0) as running:
        yield running


def capture(site: Site, job: str, folder: Path) -> Capture:
    path = folder / "capture.npz"
    path.write_bytes(site.ask("GET", f"/jobs/{job}/files/capture.npz").content)
    return Capture.load(path)


# ---- results ----


def test_a_queue_survives_a_restart_and_results_are_the_engines_own(
    site: Site, queued: str, folder: Path, tmp_path: Path
) -> None:
    done = site.wait(queued)
    assert done["state"] == "done" and done["persons"] == 1 and done["frames"] == 1, done["error"]
    assert {file["name"] for file in done["files"]} == {
        "capture.npz", "mesh.glb", "mesh.obj", "mesh.mtl", "mesh.jpg", "overlay.jpg", "arkit.json",
    }  # fmt: skip
    (folder / "astronaut.png").write_bytes(portrait())
    (wanted,) = recon3d.reconstruct(folder / "astronaut.png")
    found = capture(site, queued, tmp_path)
    assert found.source == wanted.source == "astronaut.png"
    for name in ("arkit", "shape", "pose", "translation"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-5)
    for file in done["files"]:
        assert len(site.ask("GET", f"/jobs/{queued}/files/{file['name']}").content) == file["size"]
    with zipfile.ZipFile(io.BytesIO(site.ask("GET", f"/jobs/{queued}/archive").content)) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {f"astronaut/{file['name']}" for file in done["files"]}


def test_a_clip_with_its_progress(site: Site, clip: bytes, tmp_path: Path) -> None:
    job = site.submit("take 1.mp4", clip, formats="livelink,csv,glb", faces="1")
    steps = []
    with site.ask("GET", f"/jobs/{job}/events", stream=True) as events:
        for line in events.iter_lines():
            if line.startswith(b"data: ") and (progress := json.loads(line[6:])["progress"]):
                steps.append((progress["step"], progress["done"], progress["total"]))
    done = site.job(job)
    assert done["state"] == "done" and done["frames"] == CLIP_FRAMES, done["error"]
    assert "tracking" in [step for step, _, _ in steps]
    assert all(total is None or count <= total for _, count, total in steps)
    assert {file["name"] for file in done["files"]} == {
        "capture.npz", "livelink.csv", "curves.csv", "animation.glb",
    }  # fmt: skip
    found = capture(site, job, tmp_path)
    assert found.source == "take 1.mp4" and len(found) == CLIP_FRAMES and found.tracked.all()


def test_two_jobs_at_once_and_one_of_them_cancelled(site: Site, clip: bytes, long_clip: bytes) -> None:
    takes = [("long.mp4", long_clip), ("short.mp4", clip)]
    first, second = (site.submit(name, content, formats="livelink") for name, content in takes)
    until = time.monotonic() + PATIENCE
    while [site.job(job)["state"] for job in (first, second)] != ["running", "running"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert site.ask("POST", f"/jobs/{first}/cancel").json()["state"] == "cancelled"
    assert site.wait(second)["state"] == "done"
    third = site.submit("again.png", portrait(), formats="arkit")
    assert site.wait(third)["state"] == "done"
    assert site.job(first)["state"] == "cancelled" and site.job(first)["files"] == []
    until = time.monotonic() + PATIENCE
    while (site.service.storage.jobs / first).exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_job_that_is_deleted_while_it_runs_leaves_nothing(site: Site, long_clip: bytes) -> None:
    job = site.submit("long.mp4", long_clip)
    site.wait(job, "running")
    assert site.ask("DELETE", f"/jobs/{job}").status_code == 204
    until = time.monotonic() + PATIENCE
    while job in site.service.store.ids() or (site.service.storage.jobs / job).exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def _mkv_without_duration(path: Path, seconds: int) -> bytes:
    with av.open(path, "w", format="matroska", options={"live": "1"}) as target:
        stream = target.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        frame = av.VideoFrame.from_ndarray(next(wall_frames(1)), format="rgb24")
        for _ in range(25 * seconds):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path.read_bytes()


def test_files_that_cannot_be_done_fail_with_a_reason(site: Site, clip: bytes, tmp_path: Path) -> None:
    wall = write_clip(tmp_path / "wall.mp4", wall_frames(12)).read_bytes()
    long = write_clip(tmp_path / "long.mp4", wall_frames(20), fps=2).read_bytes()
    blank = io.BytesIO()
    Image.new("RGB", (200, 200), "grey").save(blank, "PNG")
    files = {
        "cut off.jpg": (portrait("JPEG")[:9000], "truncated"),
        "cut off.mp4": (clip[:4000], "cut off.mp4: "),
        "noise.mp4": (clip[:32] + os.urandom(20_000), "noise.mp4: "),
        "wall.mp4": (wall, "no face"),
        "blank.png": (blank.getvalue(), "no face"),
        "ten seconds.mp4": (long, "longer than the 8 s"),
        "as long as it likes.mkv": (_mkv_without_duration(tmp_path / "live.mkv", 12), "longer than the 8 s"),
    }
    for name, (content, reason) in files.items():
        job = site.wait(site.submit(name, content))
        assert job["state"] == "failed", name
        assert reason in job["error"] and name in job["error"], job["error"]
        assert "\n" not in job["error"] and str(site.service.storage.root) not in job["error"]
        assert not site.service.storage.upload(job["id"]).exists()
    assert [one.restarts for one in site.service.pool.attendants] == [0, 0]


def kill_whoever_does(site: Site, job: str) -> None:
    until = time.monotonic() + PATIENCE
    while (site.job(job)["progress"] or {"step": ""})["step"] != "tracking":
        assert time.monotonic() < until
        time.sleep(0.02)
    (busy,) = [one for one in site.service.pool.attendants if one.job == job]
    assert busy.running is not None
    os.kill(busy.running.process.pid or 0, signal.SIGKILL)
    while busy.job == job:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_worker_that_dies_is_replaced_and_its_job_tried_once_more(site: Site, long_clip: bytes) -> None:
    job = site.submit("once.mp4", long_clip, formats="livelink")
    kill_whoever_does(site, job)
    done = site.wait(job)
    assert done["state"] == "done" and done["frames"] == LONG_FRAMES
    record = site.service.store.get(job)
    assert record is not None and record.attempts == 2
    assert sum(one.restarts for one in site.service.pool.attendants) == 1


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_given_up(site: Site, long_clip: bytes) -> None:
    before = sum(one.restarts for one in site.service.pool.attendants)
    job = site.submit("twice.mp4", long_clip)
    kill_whoever_does(site, job)
    kill_whoever_does(site, job)
    failed = site.wait(job)
    assert failed["state"] == "failed"
    assert failed["error"] == (
        "twice.mp4: its worker process was killed by signal 9, twice; is the file sound?"
    )
    assert sum(one.restarts for one in site.service.pool.attendants) == before + 2
    assert site.ask("GET", "/health").json()["status"] == "ok"


# ---- the page ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with chromium(*GL) as started:
        yield started


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Visit]:
    with visit(browser, site.url) as seen:
        seen.page.wait_for_selector("body[data-ready]")
        yield seen
        # A driver that has no hardware below it says that reading pixels is slow.
        assert [text for text in seen.complaints if "GL Driver Message" not in text] == []
        for address in seen.requests:
            assert address.startswith((f"{site.url}/", f"blob:{site.url}/")), address


def drop(seen: Visit, name: str, content: bytes) -> None:
    """Drop a file onto the page, as a file manager does."""
    transfer = seen.page.evaluate_handle(
        """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name));
          return transfer;
        }""",
        [name, list(content)],
    )
    seen.page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    expect(seen.page.locator("body")).to_have_class("over")
    seen.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def colours(seen: Visit) -> int:
    """How many colours there are in the middle of the 3D view."""
    picture = Image.open(io.BytesIO(seen.page.locator("#canvas").screenshot())).convert("RGB")
    width, height = picture.size
    middle = picture.crop((width // 3, height // 4, 2 * width // 3, 3 * height // 4))
    return len(set(middle.getdata()))


def needs_three() -> None:
    if check_file(THREE_JS.path, THREE_JS) is not None:
        library = Library()
        library.load()
        if library.problem is not None:
            pytest.skip(NO_THREE)


def test_a_photograph_dropped_onto_the_page_is_shown_in_3d(page: Visit) -> None:
    needs_three()
    seen = page.page
    drop(page, "<b>astronaut.png", portrait())
    expect(seen.locator("#name")).to_have_text("<b>astronaut.png", timeout=20_000)
    seen.wait_for_selector("#view[data-morphs='52']", timeout=PATIENCE * 1000)
    expect(seen.locator("#jobs .job").first.locator(".state")).to_have_text("1 head")
    seen.wait_for_timeout(300)
    assert colours(page) > 500  # a textured face; the empty view is a gradient of a few
    before = seen.locator("#canvas").screenshot()
    seen.get_by_label("jawOpen", exact=True).fill("1")
    seen.wait_for_timeout(300)
    assert seen.locator("#canvas").screenshot() != before  # the mouth opens
    seen.get_by_role("button", name="As in the photograph").click()
    names = seen.locator("#downloads a").all_text_contents()
    assert "mesh.glb" in names and "capture.npz" in names
    with seen.expect_download() as waited:
        seen.locator("#downloads a", has_text="mesh.glb").click()
    assert waited.value.path().read_bytes()[:4] == b"glTF"
    with seen.expect_download() as waited:
        seen.locator("#archive").click()
    assert zipfile.is_zipfile(waited.value.path())


def test_a_clip_plays_with_its_curves_in_step(page: Visit, site: Site, clip: bytes, folder: Path) -> None:
    needs_three()
    seen = page.page
    seen.locator("#files").set_input_files(folder / "clip.mp4")
    seen.wait_for_selector("#transport:visible", timeout=PATIENCE * 1000)
    seen.wait_for_selector("#view[data-morphs='52']")
    expect(seen.locator("#clock")).to_have_text("0:00.00 / 0:01.56")
    assert seen.locator("#units canvas").count() == 32  # 52 units, left and right together
    seen.locator("#slider").fill("0.8")
    expect(seen.locator("#clock")).to_have_text("0:00.80 / 0:01.56")
    job = seen.url.split("#")[1]
    table = site.ask("GET", f"/jobs/{job}/files/livelink.csv").text
    assert "JawOpen" in table
    shown = seen.locator(".unit", has=seen.get_by_text("jawOpen", exact=True)).locator(".now").inner_text()
    saved = capture(site, job, folder)
    frame = int(np.searchsorted(saved.timestamps, 0.8 + 1e-4) - 1)
    wanted = saved.arkit[frame, list(saved.arkit_names).index("jawOpen")]
    assert float(shown) == pytest.approx(float(wanted), abs=0.006)
    seen.locator("#play").click()
    expect(seen.locator("#play")).to_have_attribute("aria-label", "Pause")
    expect(seen.locator("#clock")).to_have_text("0:01.56 / 0:01.56", timeout=20_000)
    assert seen.evaluate("document.getElementById('video').videoWidth") > 0


def test_the_page_works_by_keyboard_and_says_what_goes_wrong(page: Visit, site: Site, folder: Path) -> None:
    needs_three()
    seen = page.page
    (folder / "notes.jpg").write_text("no picture at all")
    with seen.expect_response(re.compile("/jobs$")) as answered:
        seen.locator("#files").set_input_files(folder / "notes.jpg")
    assert answered.value.status == 415
    expect(seen.locator("#trouble")).to_have_text(
        "notes.jpg: neither a picture nor a clip in a format that is known here"
    )
    page.complaints.clear()  # of that answer, by the browser
    job = site.submit("by key.png", portrait(), formats="glb")
    site.wait(job)
    button = seen.locator("#jobs .job .open", has_text="by key.png").first
    expect(button).to_be_visible(timeout=10_000)
    button.focus()
    seen.keyboard.press("Enter")
    seen.wait_for_selector("#view[data-morphs]", timeout=20_000)
    seen.locator("#canvas").focus()
    before = seen.locator("#canvas").screenshot()
    for _ in range(4):
        seen.keyboard.press("ArrowRight")
    seen.wait_for_timeout(300)
    assert seen.locator("#canvas").screenshot() != before
    delete = seen.get_by_role("button", name="Delete: by key.png")
    delete.focus()
    seen.keyboard.press("Enter")
    expect(seen.get_by_role("button", name="Really delete?: by key.png")).to_be_visible()
    seen.keyboard.press("Enter")
    expect(seen.locator("#jobs .job .open", has_text="by key.png")).to_have_count(0, timeout=10_000)
    expect(seen.locator("#empty")).to_be_visible()
    assert site.ask("GET", f"/jobs/{job}").status_code == 404


def test_without_three_the_page_says_what_to_do_and_does_the_rest(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site, queued: str
) -> None:
    done = site.wait(queued)
    monkeypatch.setenv("RECON3D_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("RECON3D_OFFLINE", "1")
    monkeypatch.setattr(site.service, "library", Library())
    with visit(browser, f"{site.url}/#{queued}") as seen:
        expect(seen.page.locator("#no-view")).to_have_text(
            "three.js is not here: run recon3d models --fetch where there is a network, "
            "then reload this page",
            timeout=20_000,
        )
        assert seen.page.locator("#downloads a").count() == len(done["files"])
        expect(seen.page.locator("#picture")).to_be_visible()
        assert seen.complaints == []


def test_the_page_opens_with_a_token_and_keeps_it_out_of_the_address(
    browser: Browser, tmp_path: Path
) -> None:
    with served(tmp_path / "data", token="correct-horse-battery") as guarded:
        with visit(browser, f"{guarded.url}/?token=correct-horse-battery") as seen:
            seen.page.wait_for_selector("body[data-ready]")
            assert seen.page.url == f"{guarded.url}/"
            assert seen.page.evaluate("document.cookie") == ""  # no script sees it
            expect(seen.page.locator("#version")).to_have_text(recon3d.__version__)
            assert seen.complaints == []
        with visit(browser, guarded.url) as seen:
            expect(seen.page.locator("body")).to_contain_text("This page needs its token")


# ---- the command ----


def start(data: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [SCRIPT, "serve", "--port", "0", "--data", str(data), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[0]
    until = time.monotonic() + PATIENCE
    while True:
        try:
            requests.get(address, timeout=10)
            return process, address
        except requests.ConnectionError:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    process, address = start(tmp_path / "data", "--host", "0.0.0.0")
    try:
        base, token = address.split("?token=")
        assert requests.get(f"{base}api/v1/version", timeout=10).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert requests.get(f"{base}api/v1/version", headers=headers, timeout=10).status_code == 200
        again = subprocess.run(
            [SCRIPT, "serve", "--port", "0", "--data", str(tmp_path / "data")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert again.returncode == 2 and "another server uses it" in again.stderr
        assert again.stderr.count("\n") == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()


@pytest.mark.slow
def test_a_server_that_is_killed_at_work_loses_nothing(tmp_path: Path, long_clip: bytes) -> None:
    """kill -9 at several moments; its workers end with it, and the next server does the job."""
    data, job = tmp_path / "data", ""
    for step in ("loading", "tracking", "solving", "overlay"):
        process, address = start(data)
        api = f"{address}api/v1"
        if not job:
            files = {"files": ("take.mp4", long_clip)}
            job = requests.post(f"{api}/jobs", files=files, timeout=60).json()["jobs"][0]["id"]
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = requests.get(f"{api}/jobs/{job}", timeout=60).json()
            if found["state"] == "done" or (found["progress"] or {"step": ""})["step"] == step:
                break
            time.sleep(0.01)
        workers = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        process.kill()
        process.communicate()
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < until
            time.sleep(0.05)
        if step == "solving":
            break  # three times at work, and it would be set aside
    process, address = start(data)
    api = f"{address}api/v1"
    try:
        found = requests.get(f"{api}/jobs/{job}", timeout=60).json()
        assert found["state"] == "failed" and "again and again" in found["error"]
    finally:
        process.kill()
        process.communicate()
