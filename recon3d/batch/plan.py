"""What of a batch is to be done, and why: what a source names, held against what the ledger knows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from recon3d._version import __version__
from recon3d.batch.ledger import Ledger, Row, Why, Wish
from recon3d.batch.options import ItemOptions, Models
from recon3d.batch.source import Broken, Item
from recon3d.batch.storage import Unsteady, local_path, open_place, plain_errors
from recon3d.errors import InputError, Recon3DError, UsageError
from recon3d.media._open import shown

#: Errors that another day may bring an end to; all others are the input's own, and stay.
PASSING = frozenset({"OutputError", "AssetError", "MissingExtraError", "Held"})


@dataclass
class Planned:
    """What a registration found.

    Attributes:
        total: Items that the source names.
        due: How many are to be done, by the reason.
        aside: Items that failed before and are not tried again.
        broken: What cannot be an item.
    """

    total: int = 0
    due: dict[Why, int] = field(default_factory=dict)
    aside: int = 0
    broken: list[Broken] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """How items are registered.

    Attributes:
        out: Where results go.
        models: What is loaded for them.
        force: Do again what is done, and what failed.
        retry_failed: Do again what failed.
    """

    out: str
    models: Models
    force: bool = False
    retry_failed: bool = False

    def register(self, ledger: Ledger, items: Iterable[Item | Broken]) -> Planned:
        """Take down the items of a run in the ledger.

        Raises:
            UsageError: The results of another source are in the way.
            Recon3DError: The source, the ledger or the place of the results cannot be read.
        """
        planned, outputs, loaded = Planned(), Outputs(self.out), self.models.text()
        texts: dict[tuple[ItemOptions, str], tuple[str, str]] = {}
        with ledger.registration() as registration:
            for item in items:
                planned.total += 1
                if isinstance(item, Broken):
                    planned.broken.append(item)
                    continue
                key = item.options, item.kind
                if key not in texts:
                    settings = f"{item.options.text(item.kind)} {loaded}"
                    texts[key] = json.dumps(_told(item.options)), settings
                wish = Wish(item.id, item.uri, item.kind, item.mark, *texts[key])
                known = registration.known(item.id)
                why = self._why(wish, known, outputs)
                registration.add(wish, known, why)
                if why is not None:
                    planned.due[why] = planned.due.get(why, 0) + 1
                elif known is not None and known.state in ("failed", "poisoned"):
                    planned.aside += 1
        return planned

    def _why(self, wish: Wish, known: Row | None, outputs: Outputs) -> Why | None:
        """Return why an item is to be done, or None if it is not."""
        if known is None:
            return "forced" if self.force else "new"
        if self.force:
            return "forced"
        if known.uri != wish.uri and known.mark != wish.mark and known.sizes:
            raise UsageError(
                f"{shown(self.out)}: {wish.id} is the result of {shown(known.uri)}, "
                f"not of {shown(wish.uri)}; choose another --out (or --force)"
            )
        if known.state in ("waiting", "running"):
            return known.why
        if known.mark != wish.mark:
            return "changed"
        if (known.settings, known.kind) != (wish.settings, wish.kind):
            return "options"
        return self._why_as_it_is(known, outputs)

    def _why_as_it_is(self, known: Row, outputs: Outputs) -> Why | None:
        if known.version != __version__:
            return "version"
        if known.state == "done":
            return None if outputs.has(known.sizes) else "missing"
        again = self.retry_failed or (known.state == "failed" and known.error in PASSING)
        return "failed" if again else None


def _told(options: ItemOptions) -> Mapping[str, object]:
    """Return the options that are not the default."""
    usual = asdict(ItemOptions())
    return {name: value for name, value in asdict(options).items() if value != usual[name]}


class Outputs:
    """Tells whether results lie where they were written; by size, which a full or broken disk gives away."""

    def __init__(self, out: str) -> None:
        """Look at results under a folder or a URL."""
        self._out = out
        self._folder = local_path(out)

    def has(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether all files are there, in the size that they had."""
        if not sizes:
            return False
        if self._folder is None:
            return all(_short(name, size) in self._far for name, size in sizes.items())
        return all(_size(self._folder / name) == size for name, size in sizes.items())

    @cached_property
    def _far(self) -> frozenset[int]:
        """What lies at a URL: one listing, because a question a file would take its time each."""
        filesystem, root = open_place(self._out)
        try:
            with plain_errors(self._out):
                return frozenset(_listed(filesystem.find(root, detail=True), root.rstrip("/")))
        except Unsteady as error:
            raise InputError(str(error)) from error
        except Recon3DError:
            return frozenset()  # nothing is there yet


def _listed(infos: Mapping[str, Mapping[str, object]], root: str) -> Iterator[int]:
    for name, info in infos.items():
        yield _short(name[len(root) :].lstrip("/"), info.get("size"))


def _short(name: str, size: object) -> int:
    """Return a number that stands for a file; a hundred thousand of them take little memory."""
    return int.from_bytes(hashlib.sha256(f"{size} {name}".encode()).digest()[:8], "big")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
