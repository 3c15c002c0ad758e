"""What mkdocs does with the pages beside its own work (``mkdocs.yml``, ``hooks``).

Pages are read in the repository, too, so they link to files as these lie there; and what stands in a file
elsewhere (CONVENTIONS.md, the model cards) is not written a second time:

* Between ``<!-- include: ../FILE -->`` and ``<!-- /include -->`` stands a link to the file, for readers in
  the repository; on the site, its text.
* A link to a file that a page includes leads to that page, and one to README.md to the first page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parent.parent
_INCLUDE = re.compile(r"<!-- include: (?P<file>\S+) -->.*?<!-- /include -->", re.DOTALL)
_LINK = re.compile(r"(?P<start>\]\()(?P<target>[^)\s]+)(?P<end>\))")
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Include files, and turn links round; mkdocs calls this for every page."""
    here = PurePosixPath("docs", page.file.src_uri)
    text = _relink(markdown, here, here)
    return _INCLUDE.sub(lambda found: _included(found["file"], here), text)


def _included(target: str, here: PurePosixPath) -> str:
    file = _joined(here, target)
    if not (ROOT / file).is_file():
        raise PluginError(f"{here}: includes {file}, which is not there")
    return _relink((ROOT / file).read_text(encoding="utf-8"), file, here)


def _relink(text: str, file: PurePosixPath, here: PurePosixPath) -> str:
    """Turn the links of a file's text into links of a page."""

    def turned(found: re.Match[str]) -> str:
        path, mark, anchor = found["target"].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        return found["start"] + _on_site(_joined(file, path), here) + mark + anchor + found["end"]

    parts: list[str] = []
    last = 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(turned, text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, _LINK.sub(turned, text[last:])])


def _joined(file: PurePosixPath, target: str) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath(file.parent / target))


def _on_site(file: PurePosixPath, here: PurePosixPath) -> str:
    page = _pages().get(str(file), str(file))
    if not page.startswith("docs/"):
        raise PluginError(f"{here}: links to {file}, which is on no page")
    return posixpath.relpath(page, str(here.parent))


def _pages() -> dict[str, str]:
    """Return which page shows a file that does not lie in docs/."""
    shown = {"README.md": "docs/index.md"}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        place = PurePosixPath(page.relative_to(ROOT).as_posix())
        for found in _INCLUDE.finditer(page.read_text(encoding="utf-8")):
            shown[str(_joined(place, found["file"]))] = str(place)
    return shown
