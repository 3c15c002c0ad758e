"""``recon3d doctor``: one line a fact, with a mark, and what to do about what is not well."""

from __future__ import annotations

import json
from dataclasses import asdict

from recon3d._version import __version__
from recon3d.doctor import Fact, State, examine

_MARKS: dict[State, str] = {"ok": "ok  ", "absent": "-   ", "warning": "warn", "failed": "FAIL"}


def run_doctor(*, fetching: bool, as_json: bool) -> int:
    """Examine this installation and print; return 1 if something that the default use needs is broken."""
    facts: list[Fact] = []
    for fact in examine(fetching=fetching):
        facts.append(fact)
        if not as_json:
            print(_line(fact), flush=True)
    failed = [fact.name for fact in facts if fact.state == "failed"]
    if as_json:
        record = {"version": __version__, "ok": not failed, "facts": [asdict(fact) for fact in facts]}
        print(json.dumps(record))
    elif failed:
        print(f"recon3d does not work here as it should: {', '.join(failed)}")
    else:
        print("recon3d works here")
    return 1 if failed else 0


def _line(fact: Fact) -> str:
    advice = f" -> {fact.advice}" if fact.advice else ""
    return f"{_MARKS[fact.state]}  {fact.name}: {fact.text}{advice}"
