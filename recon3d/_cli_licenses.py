"""``recon3d licenses``: every part and its licence, one line each; at the end what follows from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from recon3d.licenses import Part, conclusion, extras_of, list_parts

_HEADINGS = {"package": "packages", "library": "libraries inside them", "data": "model and data files"}


def run_licenses(extras: Sequence[str], as_json: bool) -> int:
    """Print the licences; ``extras``: those counted in, "all" for every one. Return the exit status.

    Raises:
        UsageError: There is no such extra.
        MissingExtraError: recon3d's metadata are not there.
    """
    chosen = extras_of() if "all" in extras else list(dict.fromkeys(extras))
    parts = list_parts(chosen)
    summary = conclusion(parts, chosen)
    if as_json:
        facts = [{**asdict(part), "kind": part.kind} for part in parts]
        print(json.dumps({"extras": chosen, "parts": facts, "conclusion": summary}))
        return 0
    for sort, heading in _HEADINGS.items():
        found = [part for part in parts if part.sort == sort]
        if found:
            print(f"{heading}:")
        for part in found:
            print(f"  {_line(part)}")
    print(summary)
    return 0


def _line(part: Part) -> str:
    name = part.name if part.version is None else f"{part.name} {part.version}"
    inside = f"holds {', '.join(part.bundled)}" if part.bundled and part.sort == "package" else ""
    return "; ".join(filter(None, (f"{name}: {part.licence or 'not stated'}", inside, part.note)))
