"""The documentation: every command in it is run, and does what the page says; the site is built and seen.

A command that is neither run nor named in ``NOT_RUN`` with a reason fails. What needs minutes is marked slow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from browser import CHROMIUM, NO_CHROMIUM, chromium, visit
from docs_inputs import add_heads, make_inputs
from docs_pages import (
    ROOT,
    Block,
    all_options,
    blocks,
    calls_in_text,
    command_of,
    pages,
    root_command,
    spans,
    unknown_options,
)
from test_cli import SCRIPT
from test_cli import recon3d as script
from typer.testing import CliRunner

from recon3d import capture
from recon3d.cli import app
from recon3d.training.config import Stage2Config

sys.path.insert(0, str(ROOT / "tools"))

import draw_architecture

#: Commands that no test here runs, and why.
NOT_RUN = {
    r"pip install ": "changes the environment; tools/check_packaging.py does it in fresh ones",
    r"(pipx|uv tool) install ": "tools/check_packaging.py does it",
    r"docker ": "there may be no container engine; tests/test_packaging.py looks at the Dockerfile",
    r"mkdocs build --strict$": "test_the_site_is_built_and_asks_nobody_for_anything does it",
    r"recon3d --install-completion$": "changes the user's shell; tests/test_completion.py does it elsewhere",
    r"recon3d train stage[12] ": "takes hours; tests/test_training_stage*.py run the smaller configurations",
    r"ray start ": "tests/test_batch_ray.py starts a cluster",
    r"recon3d batch s3://": "there is no cluster and no bucket of that name",
    r"pytest$": "this is it",
    r"python tools/\w+\.py": "takes minutes, or needs data that are not here",
}
#: Programs whose commands are run.
RUN = ("recon3d ", "curl --fail ")
#: Options of other programs, which the pages name.
FOREIGN = {"--torch-backend", "--pip-args", "--index-url", "--user", "--nproc-per-node", "--rm", "--strict"}
#: What pages name for the sake of an example, without a command that makes it.
EXAMPLES = {"heads/group", "heads/group.face2"}
#: Pages that need heads of other kinds, or more than some seconds.
SLOW = ("README.md", "docs/flame.md", "docs/heads.md", "docs/repaint.md", "docs/batch.md", "docs/serve.md")
#: Commands of slow pages that are run every time.
ALWAYS = ("recon3d photo portrait.jpg --out heads", "recon3d video take.mp4 --out takes")
VMC_PORT = 39539

PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]
WITH_COMMANDS = [
    name for name in PAGES if any(b.is_shell or b.language == "python" for b in blocks(ROOT / name))
]
QUICK = [name for name in WITH_COMMANDS if name not in SLOW]


def recon3d(*words: str) -> str:
    """Run a command in this process, in which everything is loaded already; return what it printed."""
    done = CliRunner().invoke(app, list(words), prog_name="recon3d")
    assert done.exit_code == 0, f"recon3d {shlex.join(words)}: {done.output}"
    return done.output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    with working_in(folder):
        return make_inputs(folder, recon3d)


@pytest.fixture(scope="module")
def more_inputs(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(inputs, tmp_path_factory.mktemp("inputs") / "all")
    with working_in(folder):
        add_heads(folder, recon3d)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("done")


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def is_run(command: str) -> bool:
    """Whether a command is run here; one that is not has a reason."""
    if any(re.match(pattern, command) for pattern in NOT_RUN):
        return False
    assert command.startswith(RUN), f"neither run nor in NOT_RUN: {command}"
    return True


def run_page(name: str, folder: Path, done: Path, *, only: tuple[str, ...] = ()) -> list[str]:
    """Run the blocks of a page, in their order, in a folder; return the commands that were run.

    ``done`` is where the results of commands are kept that several pages name.
    """
    ran: list[str] = []
    for block in blocks(ROOT / name):
        if block.language == "toml" and "recon3d-names/1" in block.text:
            (folder / "my_rig.toml").write_text(block.text, encoding="utf-8")
        if block.language == "csv":
            (folder / "takes.csv").write_text(block.text, encoding="utf-8")
    with contextlib.ExitStack() as servers:
        for block in blocks(ROOT / name):
            if block.language == "python" and not only:
                run_python(name, block)
            for command in block.commands if block.is_shell else ():
                if is_run(command) and (not only or command in only):
                    if command.startswith("recon3d serve"):
                        servers.enter_context(serving(command, folder))
                    else:
                        run(command, done)
                    ran.append(command)
    return ran


def run(command: str, done: Path) -> None:
    """Run a command; what another page ran in the same words, of the same inputs, is copied from ``done``."""
    program, *words = shlex.split(command)
    if program != "recon3d":
        subprocess.run([program, *words], check=True, capture_output=True, timeout=60)
        return
    out = Path(words[words.index("--out") + 1]) if "--out" in words else None
    kept = done / hashlib.sha256(command.encode()).hexdigest()[:16]
    if kept.is_dir() and (out is None or not out.exists()):
        if out is not None:
            shutil.copytree(kept, out)
        return
    if words[0] == "stream":
        with receiver() as received:
            recon3d(*words)
        assert received, f"{command}: nothing arrived"
    elif words[0] == "batch":  # its workers start from the program itself
        no_cluster = {"RAY_ADDRESS": "", "RAY_TMPDIR": str(Path.cwd())}
        assert script(*words, env=no_cluster).status == 0, command
    else:
        recon3d(*words)
    if out is not None:
        assert out.is_file() or any(out.rglob("*.*")), f"{command}: {out} is empty"
        assert all(file.stat().st_size for file in [out, *out.rglob("*")] if file.is_file()), command
    if words[0] in ("photo", "video", "doctor"):
        kept.mkdir()
        if out is not None:
            shutil.copytree(out, kept, dirs_exist_ok=True)


@contextlib.contextmanager
def serving(command: str, folder: Path) -> Iterator[None]:
    """Let a server run until the page ends, and end it by Ctrl-C."""
    data = tempfile.mkdtemp(prefix="data-", dir=folder)
    env = {**os.environ, "XDG_DATA_HOME": data, "RECON3D_TOKEN": "", "PYTHONUNBUFFERED": "1"}
    words = [SCRIPT, *shlex.split(command)[1:]]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = server.stdout.readline().split("  ")[0]
            assert requests.get(address, timeout=60).status_code == 200, command
            yield
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0, command


def run_python(name: str, block: Block) -> None:
    code = compile("\n" * (block.line - 1) + block.text, ROOT / name, "exec")
    with contextlib.redirect_stdout(None):
        exec(code, {"__name__": "__docs__"})


@contextlib.contextmanager
def receiver() -> Iterator[list[bytes]]:
    """Listen where VTubing programs do."""
    packets: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        try:
            listening.bind(("127.0.0.1", VMC_PORT))
        except OSError:
            pytest.skip(f"port {VMC_PORT} is taken")
        listening.settimeout(0.2)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    packets.append(listening.recv(4096))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield packets
        finally:
            over.set()
            thread.join()


def check_named_files(name: str, folder: Path) -> None:
    """Whatever a page says is in a folder that its commands made, is; and so are the files in its tables."""
    if not list(calls(name)):
        return
    made = {words[words.index("--out") + 1].rstrip("/") for words in calls(name) if "--out" in words}
    for span in spans(ROOT / name):
        if "/" in span and " " not in span and span.split("/")[0] in made and span not in EXAMPLES:
            assert (folder / span).exists(), f"{name}: there is no {span}"
    text = (ROOT / name).read_text(encoding="utf-8")
    for table in re.findall(r"^\| file \| what it is \|\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            for file in re.findall(r"`([^`]+)`", row.split("|")[1]):
                wanted = file.lstrip(".") if file.startswith(".") else Path(file).name
                assert any(folder.rglob(f"*{wanted}")), f"{name}: nothing made {file}"


def calls(name: str) -> Iterator[list[str]]:
    """The words after ``recon3d`` of the commands that are run."""
    for block in blocks(ROOT / name):
        if block.is_shell:
            ran = [shlex.split(one) for one in block.commands if is_run(one)]
            yield from (words[1:] for words in ran if words[0] == "recon3d")


# ---- what the pages say is run ----


@pytest.mark.parametrize("name", QUICK)
def test_what_a_page_says_works(name: str, inputs: Path, done: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(inputs, tmp_path / "page")
    with working_in(folder):
        run_page(name, folder, done)
    check_named_files(name, folder)


@pytest.mark.parametrize("name", ["README.md"])
def test_the_first_commands_of_a_long_page_work(name: str, inputs: Path, done: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(inputs, tmp_path / "page")
    with working_in(folder):
        assert run_page(name, folder, done, only=ALWAYS) == list(ALWAYS)
    check_named_files(name, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WITH_COMMANDS if name in SLOW])
def test_what_a_long_page_says_works(name: str, more_inputs: Path, done: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(more_inputs, tmp_path / "page")
    with working_in(folder):
        run_page(name, folder, done)
    check_named_files(name, folder)


# ---- what is not run is at least known ----


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_is_run_or_has_a_reason(name: str) -> None:
    for block in blocks(ROOT / name):
        for command in block.commands if block.is_shell else ():
            is_run(command)
            if command.startswith("python "):
                assert (ROOT / shlex.split(command, comments=True)[1]).is_file(), command
            if command.startswith("recon3d "):
                words = shlex.split(command)[1:]
                assert not unknown_options(words), f"{name}: {command}"
                parse(words)


def parse(words: list[str]) -> None:
    """Let the command line read a call without running it."""
    command, names, rest = command_of(words)
    assert names or words[0].startswith("--"), f"recon3d has no command {words[0]}"
    context = command.make_context(" ".join(["recon3d", *names]), rest, resilient_parsing=True)
    assert not context.args, f"too much: {words}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_options_in_the_text_exist(name: str) -> None:
    for words in calls_in_text(ROOT / name):
        command, names, _ = command_of(words)
        assert names or words[0].startswith("--"), f"{name}: recon3d {words[0]}"
        assert not unknown_options(words), f"{name}: recon3d {shlex.join(words)}"
        assert command is not root_command() or words[0].startswith("--")
    known = all_options() | FOREIGN
    for span in spans(ROOT / name):
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span) if span.startswith("--") else ():
            assert option in known, f"{name}: there is no {option}"


def test_no_reason_is_given_for_nothing() -> None:
    commands = [c for name in PAGES for b in blocks(ROOT / name) if b.is_shell for c in b.commands]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for command in commands), pattern


def test_a_command_that_nobody_knows_fails() -> None:
    with pytest.raises(AssertionError, match="neither run nor"):
        is_run("curl https://example.org")
    assert unknown_options(["photo", "a.jpg", "--no-such"]) == ["--no-such"]
    with pytest.raises(AssertionError, match="no command"):
        parse(["fotograf", "a.jpg"])


# ---- the reference is true ----


def test_the_fields_of_a_capture_are_those_documented() -> None:
    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8").split("## capture.npz")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    kinds = {"U": "text", "?": "bool"}
    wanted = [
        (name, kinds.get(kind, kind), str(shape).replace("'", "") if shape else "")
        for name, (kind, shape) in capture._LAYOUT.items()
    ]
    assert [(name, kind, size.strip()) for name, kind, size in rows] == wanted


def test_the_json_on_the_page_has_the_keys_of_the_file(inputs: Path, tmp_path: Path) -> None:
    (block,) = (one for one in blocks(ROOT / "docs/formats.md") if one.language == "json")
    shown = json.loads(block.text)
    recon3d("export", str(inputs / "take/capture.npz"), "--format", "arkit", "--out", str(tmp_path))
    made = json.loads((tmp_path / "take/arkit.json").read_text(encoding="utf-8"))
    assert list(shown) == list(made)
    assert list(shown["frames"][0]) == list(made["frames"][0])
    assert (shown["format"], shown["generator"]) == (made["format"], made["generator"])


def test_the_arrays_of_flames_parameters_are_those_documented() -> None:
    from flame_heads import flame_capture, flame_sized_head

    from recon3d.export import export

    head = flame_sized_head(20, 10)
    text = (ROOT / "docs/flame.md").read_text(encoding="utf-8")
    named = {
        n for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for n in re.findall(r"`(\w+)`", row)
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (path,) = export(flame_capture(head), head, folder, "flame-params")
        assert set(np.load(path).files) == named


def test_settings_for_training_are_known() -> None:
    """The TOML on the page of training may be put into a configuration."""
    config = Stage2Config()
    sections = {one.name: getattr(config, one.name) for one in fields(config)}
    wanted = {name: vars(one) for name, one in sections.items() if is_dataclass(one)}
    for block in blocks(ROOT / "docs/training.md"):
        if block.language == "toml":
            section = ""
            for line in block.text.splitlines():
                section = line.strip("[]") if line.startswith("[") else section
                assert line.startswith("[") or line.split(" = ")[0] in wanted[section], line


def test_the_picture_of_the_architecture_is_true() -> None:
    """All modules are in a box, all arrows are imports, and the story uses what it names."""
    assert draw_architecture.PICTURE.read_text(encoding="utf-8") == draw_architecture.draw(), (
        "imports have changed: python tools/draw_architecture.py"
    )
    counts = draw_architecture.uses()
    for stage in ("media", "face", "encoder", "fitting", "capture", "export"):
        assert counts["photo and clip", stage], stage
    for module in (ROOT / "recon3d").iterdir():
        if module.suffix == ".py" or (module / "__init__.py").is_file():
            draw_architecture.box_of(module.stem)
    with pytest.raises(KeyError, match="belongs into one box"):
        draw_architecture.box_of("nowhere")


# ---- the site ----


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert "Camera space" in (site / "conventions.html").read_text(encoding="utf-8").replace(
        "camera space", "Camera space"
    )
    assert "SHA-256" in (site / "models.html").read_text(encoding="utf-8")


def test_links_of_the_repository_lead_somewhere() -> None:
    for page in pages():
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"[a-z]+:|#", target):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"


def test_the_site_is_built_and_asks_nobody_for_anything(site: Path) -> None:
    """Pages load nothing from elsewhere: no scripts, styles, fonts or pictures."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|video)[^>]*?\ssrc=[\"']?(https?:[^\"' >]+)", text)
        links = re.findall(r"<link[^>]*>", text)
        loaded += [
            one for one in links if "://" in one and not re.search("rel=[\"']?(canonical|next|prev)", one)
        ]
        assert not loaded, f"{page}: {loaded}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?https?:", style.read_text(encoding="utf-8")), style


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_a_browser_shows_the_site_from_the_disk(site: Path) -> None:
    with chromium() as browser:
        for name in ("index.html", "models.html", "architecture.html"):
            with visit(browser, (site / name).as_uri()) as seen:
                seen.page.wait_for_load_state("networkidle")
                assert seen.page.locator("h1").first.is_visible()
                pictures = seen.page.eval_on_selector_all(
                    "article img", "all => all.map(p => p.naturalWidth)"
                )
                assert all(pictures), f"{name}: a picture is missing"
                assert {url.partition(":")[0] for url in seen.requests} <= {"file", "data", "blob"}
