"""The pages that people read, taken apart: fenced blocks, the commands in them, and commands in the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import typer

from recon3d._cli_group import DefaultRun
from recon3d.cli import app

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ("" for none), its text, and its first line's number."""

    language: str
    text: str
    line: int

    @property
    def is_shell(self) -> bool:
        """Whether it holds commands; blocks without a language do."""
        return self.language in ("", "bash", "console", "sh", "shell")

    @property
    def commands(self) -> list[str]:
        """The commands, one a line; comments are left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def pages() -> list[Path]:
    """README, all pages of the documentation, and the files that pages include."""
    included = ("CONVENTIONS.md", "assets/README.md", "flame_model/README.md")
    docs = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(ROOT / name for name in included), *docs]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)
    ]


def spans(page: Path) -> list[str]:
    """What stands in backticks in a page's running text."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(found[1].split()) for found in _CODE.finditer(text)]


@lru_cache(maxsize=1)
def root_command() -> Any:
    """The command line, as click sees it."""
    return typer.main.get_command(app)


def command_of(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """Return the command that words call, its names, and the words after these."""
    found, names, rest = root_command(), list[str](), list(words)
    while rest and hasattr(found, "commands"):
        if rest[0] not in found.commands:
            if isinstance(found, DefaultRun) and rest[0] != "--help":
                rest.insert(0, "run")
                continue
            break
        found = found.commands[rest[0]]
        names.append(rest.pop(0))
    return found, names, rest


def options_of(command: Any) -> set[str]:
    """All options of a command."""
    return {"--help"}.union(*({*one.opts, *one.secondary_opts} for one in command.params))


def all_options(command: Any | None = None) -> set[str]:
    """All options of all commands."""
    command = root_command() if command is None else command
    below = getattr(command, "commands", {}).values()
    return options_of(command).union(*(all_options(one) for one in below))


def unknown_options(words: list[str]) -> list[str]:
    """Return the options in a call of recon3d that its command does not have."""
    command, _, rest = command_of(words)
    used = [word.partition("=")[0] for word in rest if re.match(r"-[a-z]|--[a-z]", word)]
    return [one for one in used if one not in options_of(command)]


def calls_in_text(page: Path) -> Iterator[list[str]]:
    """Yield the words after ``recon3d`` of every call in a page's running text."""
    for span in spans(page):
        if span.startswith("recon3d ") and "…" not in span:
            yield shlex.split(span)[1:]
