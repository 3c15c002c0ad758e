"""Draws docs/architecture.svg from the imports in recon3d itself; only the boxes are placed by hand.

    python tools/draw_architecture.py            # write the picture
    python tools/draw_architecture.py --check    # exit status 1 if the one that is there is not true any more

Boxes stand in rows. A module may use whatever stands in rows below it; that is not drawn, for it would be all
one could see. What it uses beside or above it is: each arrow is an import that is there. A module that no box
holds is an error.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"


@dataclass(frozen=True)
class Box:
    """A part of recon3d: its name, a line on it, its modules and packages; ``_cli*`` is a pattern."""

    name: str
    text: str
    parts: tuple[str, ...]


#: From the top, what people use, to the bottom, what everything uses.
ROWS: tuple[tuple[str, tuple[Box, ...]], ...] = (
    ("ways in", (
        Box("command line", "one function a command", ("cli", "__main__", "_cli_*", "doctor", "licenses")),
        Box("batch", "archives and clusters", ("batch",)),
        Box("serve", "web page and HTTP API", ("serve",)),
        Box("Python", "import recon3d", ("__init__",)),
    )),
    ("what is done", (
        Box("photo and clip", "media → face → encoder → fitting → capture → export",
            ("pipeline", "observe", "parts", "clip", "convert", "_video_*", "_results", "_records",
             "_takes")),
        Box("view, stream", "a capture played", ("view", "view_window", "stream")),
        Box("synthesis", "edit, reenact", ("synthesis", "expressions")),
        Box("training", "new networks", ("training",)),
        Box("evaluation", "how good is it?", ("evaluation",)),
    )),
    ("stages", (
        Box("face", "found: boxes, landmarks", ("face",)),
        Box("encoder", "guessed from pixels", ("encoder", "network_files")),
        Box("fitting", "solved for", ("fitting",)),
        Box("capture", "the result", ("capture",)),
        Box("export", "one file a format", ("export",)),
    )),
    ("geometry", (
        Box("head", "the parametric head", ("head",)),
        Box("render", "camera, rasterizers, light", ("render",)),
    )),
    ("ground", (
        Box("media", "pictures and clips, read and written", ("media",)),
        Box("conventions, files, assets, errors", "names and axes, atomic writing, downloads, messages",
            ("conventions", "files", "assets", "errors", "resources", "_version", "_npz", "_processes",
             "_threads", "_unit_names", "_focal_option")),
    )),
)  # fmt: skip

_TIP = '"url(#tip)"'
WIDTH, LEFT, RIGHT, TOP, HIGH, BETWEEN, GAP = 1120, 120, 16, 64, 64, 62, 22


@dataclass(frozen=True)
class Place:
    """Where a box stands, px: left, top, width; and its row and place in it, from 0."""

    x: float
    y: float
    width: float
    row: int
    column: int

    @property
    def middle(self) -> float:
        """Between its sides."""
        return self.x + self.width / 2


def boxes() -> Iterator[Box]:
    """Yield all boxes, from the top left."""
    for _, row in ROWS:
        yield from row


def box_of(part: str) -> str:
    """Return the name of the box that holds a module or package.

    Raises:
        KeyError: None does, or several do.
    """
    exact = [box.name for box in boxes() if part in box.parts]
    loose = [
        box.name
        for box in boxes()
        if any(one.endswith("*") and part.startswith(one[:-1]) for one in box.parts)
    ]
    found = exact or loose
    if len(found) != 1:
        raise KeyError(f"recon3d.{part} belongs into one box of ROWS, and stands in {len(found)}")
    return found[0]


def uses() -> dict[tuple[str, str], int]:
    """Return how many imports lead from each box to each other one."""
    counts: dict[tuple[str, str], int] = {}
    for path in sorted((ROOT / "recon3d").rglob("*.py")):
        parts = path.relative_to(ROOT / "recon3d").with_suffix("").parts
        here = box_of(parts[0])
        for there in map(box_of, _imported(path)):
            if there != here:
                counts[here, there] = counts.get((here, there), 0) + 1
    return counts


def _imported(path: Path) -> Iterator[str]:
    """Yield the parts of recon3d that a file imports, also within functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
            if node.module == "recon3d":
                names = [f"recon3d.{one.name}" for one in node.names]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        for name in names:
            if name.startswith("recon3d."):
                part = name.split(".")[1]
                yield part if (ROOT / "recon3d" / part).is_dir() or _is_module(part) else "__init__"


def _is_module(part: str) -> bool:
    return (ROOT / "recon3d" / f"{part}.py").is_file()


def places() -> dict[str, Place]:
    """Return where the boxes stand."""
    found = {}
    for row, (_, members) in enumerate(ROWS):
        weights = [2.8 if len(box.text) > 40 else 1.0 for box in members]
        room = WIDTH - LEFT - RIGHT - GAP * (len(members) - 1)
        x = float(LEFT)
        for column, (box, weight) in enumerate(zip(members, weights, strict=True)):
            width = room * weight / sum(weights)
            found[box.name] = Place(x, TOP + row * (HIGH + BETWEEN), width, row, column)
            x += width + GAP
    return found


def sideways(counts: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the uses that are drawn: of a box in the same row, or in one above."""
    where = places()
    return sorted(pair for pair in counts if where[pair[1]].row <= where[pair[0]].row)


def arrows(counts: Mapping[tuple[str, str], int]) -> list[tuple[str, str, bool]]:
    """Return the arrows: from, to, and whether it has two heads, for boxes of a row that use each other."""
    pairs = sideways(counts)
    both = {(a, b) for a, b in pairs if (b, a) in pairs}
    return [(a, b, (a, b) in both) for a, b in pairs if (a, b) not in both or a < b]


def draw() -> str:
    """Return the picture."""
    where = places()
    height = TOP + len(ROWS) * (HIGH + BETWEEN) - BETWEEN + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' font-family="sans-serif" font-size="13">',
        "<title>recon3d: what uses what</title>",
        "<!-- Drawn by tools/draw_architecture.py; do not edit. -->",
        "<style>.box{fill:#eef3f8;stroke:#44607a}.name{font-weight:bold;fill:#14202b}.text{fill:#3c4b58}"
        ".use{fill:none;stroke:#b0542d;stroke-width:1.4}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#b0542d"/></marker></defs>',
        f'<text class="text" x="{LEFT}" y="24">Each box may use all boxes in rows below its own.'
        " Arrows: what it uses beside or above it.</text>",
    ]
    for row, (title, _) in enumerate(ROWS):
        y = TOP + row * (HIGH + BETWEEN) + HIGH / 2 + 4
        lines.append(f'<text class="text" x="12" y="{y:.0f}">{escape(title)}</text>')
    lines += [_box(box, where[box.name]) for box in boxes()]
    lines += [_arrow(where[a], where[b], k, both) for k, (a, b, both) in enumerate(arrows(uses()))]
    lines += ["</svg>", ""]
    return "\n".join(lines)


def _box(box: Box, place: Place) -> str:
    return (
        f'<rect class="box" x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}"'
        f' height="{HIGH}" rx="6"/>'
        f'<text class="name" x="{place.middle:.1f}" y="{place.y + 27:.1f}" text-anchor="middle">'
        f"{escape(box.name)}</text>"
        f'<text class="text" x="{place.middle:.1f}" y="{place.y + 47:.1f}" text-anchor="middle"'
        f' font-size="12">{escape(box.text)}</text>'
    )


def _arrow(start: Place, end: Place, number: int, both: bool) -> str:
    """Draw an arrow: over the top edges within a row, up from a box to a row above."""
    shift = (number * 11) % 34 - 17
    x0, x1 = start.middle + shift, end.middle + shift
    y0 = start.y
    if start.row == end.row:
        y1, bow = y0, y0 - 14 - 7 * abs(start.column - end.column)
    else:
        y1 = end.y + HIGH
        bow = (y0 + y1) / 2
    heads = f"{' marker-start=' + _TIP if both else ''} marker-end={_TIP}"
    curve = f"M{x0:.1f} {y0:.1f}C{x0:.1f} {bow:.1f} {x1:.1f} {bow:.1f} {x1:.1f} {y1:.1f}"
    return f'<path class="use" d="{curve}"{heads}/>'


def main() -> int:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="only look whether the picture is true")
    if parser.parse_args().check:
        return 0 if PICTURE.read_text(encoding="utf-8") == draw() else 1
    PICTURE.write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
