"""Name maps: the units as other rigs name, scale and combine them; ``docs/name_maps.md`` tells the format."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES
from recon3d.errors import InputError, UsageError
from recon3d.media._open import open_regular, shown
from recon3d.resources import resource_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = "recon3d-names/1"
#: The maps that come with recon3d.
PRESETS = ("unity", "vrm")

Floats = npt.NDArray[np.floating]

_COMBINE: Mapping[str, Callable[[Floats], Floats]] = {
    "sum": lambda values: values.sum(axis=1),
    "max": lambda values: values.max(axis=1),
    "min": lambda values: values.min(axis=1),
}
_SETTINGS = ("scale", "offset", "clamp")
_TOP = ("format", "description", "mirror", "keep", "drop", "defaults", "curves")


@dataclass(frozen=True)
class MappedCurve:
    """One curve of another rig: ``clamp(scale * combine(weight * unit, ...) + offset)``.

    Attributes:
        name: What the rig calls it.
        units: Index of the units it is made of, in ``ARKIT_NAMES``.
        weights: What each unit is multiplied by.
        combine: ``"sum"``, ``"max"`` or ``"min"``.
        scale: Multiplies the combination.
        offset: Is added after that.
        clamp: Lowest and highest value of the result, or None.
    """

    name: str
    units: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)
    combine: str = "sum"
    scale: float = 1.0
    offset: float = 0.0
    clamp: tuple[float, float] | None = None

    def apply(self, values: Floats) -> Floats:
        """Return the curve: units (T, 52) to (T,)."""
        combined = _COMBINE[self.combine](values[:, self.units] * np.array(self.weights))
        result: Floats = combined * self.scale + self.offset
        return result if self.clamp is None else result.clip(*self.clamp)


@dataclass(frozen=True)
class NameMap:
    """The curves of another rig, each made of the 52 ARKit units.

    Attributes:
        name: Name of the preset, or of the file.
        curves: The curves, in the order they are written.
    """

    name: str
    curves: tuple[MappedCurve, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The curves' names, in order."""
        return tuple(curve.name for curve in self.curves)

    @property
    def renames(self) -> dict[str, str] | None:
        """Unit to new name where the map only renames (and drops), with values as they are; else None."""
        plain = all(c == MappedCurve(c.name, c.units) and len(c.units) == 1 for c in self.curves)
        found = {ARKIT_NAMES[curve.units[0]]: curve.name for curve in self.curves}
        return found if plain and len(found) == len(self.curves) else None

    def apply(self, values: Floats) -> Floats:
        """Return the curves' values.

        Args:
            values: (T, 52) units, in ``ARKIT_NAMES`` order.

        Returns:
            (T, n) in the order of ``names``.
        """
        return np.stack([curve.apply(values) for curve in self.curves], axis=1)

    @staticmethod
    def load(name_or_path: str | Path) -> NameMap:
        """Load a preset by its name, or a map from a TOML file.

        Raises:
            UsageError: It is neither a preset nor a file.
            InputError: The file cannot be read, or says something that a name map cannot say.
        """
        text = str(name_or_path)
        if text in PRESETS:
            return NameMap.parse(resource_path(f"assets/name_maps/{text}.toml").read_bytes(), text)
        path = Path(name_or_path)
        if not path.exists():
            presets = ", ".join(PRESETS)
            raise UsageError(f"there is no name map {shown(path)!r}; choose {presets}, or name a TOML file")
        with open_regular(path) as file:
            return NameMap.parse(file.read(), shown(path))

    @staticmethod
    def parse(document: bytes, name: str) -> NameMap:
        """Return the map that a TOML document describes; ``name`` is what messages call it.

        Raises:
            InputError: The document is not TOML, or not a name map.
        """
        try:
            content = tomllib.loads(document.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: not a name map (it is no UTF-8 text)") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{name}: not a name map (TOML: {error})") from error
        try:
            return NameMap(name, _curves(content))
        except _Fault as fault:
            raise InputError(f"{name}: {fault}") from fault


class _Fault(Exception):
    """What is wrong with a map's document, before the file is named."""


def _curves(content: Mapping[str, Any]) -> tuple[MappedCurve, ...]:
    _check_keys(content, _TOP, "the map")
    if content.get("format") != FORMAT:
        raise _Fault(f'not a name map (its first line is to be format = "{FORMAT}")')
    defaults = _settings(_typed(content, "defaults", dict, {}), "[defaults]")
    listed = _typed(content, "curves", dict, {})
    curves = [_curve(name, value, defaults) for name, value in listed.items()]
    curves += _kept(content, curves, defaults)
    if not curves:
        raise _Fault("names no curves; list them under [curves], or keep = true")
    if _typed(content, "mirror", bool, False):
        curves = [replace(c, units=tuple(ARKIT_MIRROR[unit] for unit in c.units)) for c in curves]
    return tuple(curves)


def _kept(
    content: Mapping[str, Any], curves: Sequence[MappedCurve], defaults: Mapping[str, Any]
) -> list[MappedCurve]:
    """Return the units that no curve uses, under their own names, where the map keeps those."""
    dropped = {_unit(name, "drop") for name in _typed(content, "drop", list, [])}
    if not _typed(content, "keep", bool, False):
        if dropped:
            raise _Fault("drop goes with keep = true: otherwise only what is listed is written")
        return []
    used = {unit for curve in curves for unit in curve.units}
    kept = [i for i in range(len(ARKIT_NAMES)) if i not in used and i not in dropped]
    taken = {curve.name for curve in curves} & {ARKIT_NAMES[i] for i in kept}
    if taken:
        raise _Fault(f"a curve is called {min(taken)!r} like a unit that is kept; drop that unit")
    return [MappedCurve(ARKIT_NAMES[i], (i,), **defaults) for i in kept]


def _curve(name: str, value: object, defaults: Mapping[str, Any]) -> MappedCurve:
    where = f"curve {name!r}"
    if not name.strip() or not name.isprintable():
        raise _Fault(f"{where}: a name of printable letters is wanted")
    if isinstance(value, str):
        return MappedCurve(name, (_unit(value, where),), **defaults)
    if not isinstance(value, dict):
        raise _Fault(f"{where}: the name of a unit or a table is wanted, not {value!r}")
    _check_keys(value, (*_COMBINE, *_SETTINGS), where)
    ways = [way for way in _COMBINE if way in value]
    if len(ways) != 1:
        raise _Fault(f"{where}: exactly one of {', '.join(_COMBINE)} is wanted")
    units, weights = _parts(value[ways[0]], f"{where}, {ways[0]}")
    return MappedCurve(name, units, weights, ways[0], **{**defaults, **_settings(value, where)})


def _parts(value: object, where: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return units and weights of ``"unit"``, ``["unit", ...]`` or ``{unit = weight, ...}``."""
    if isinstance(value, dict):
        parts = {_unit(name, where): _number(weight, f"{where}, {name}") for name, weight in value.items()}
    elif isinstance(value, (str, list)):
        parts = {_unit(name, where): 1.0 for name in ([value] if isinstance(value, str) else value)}
        if isinstance(value, list) and len(parts) != len(value):
            raise _Fault(f"{where}: a unit is named twice; give it a weight instead")
    else:
        parts = {}
    if not parts:
        raise _Fault(f"{where}: a list of units or a table of weights is wanted")
    return tuple(parts), tuple(parts.values())


def _settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a table says of scale, offset and clamp."""
    if where == "[defaults]":
        _check_keys(table, _SETTINGS, where)
    found: dict[str, Any] = {
        key: _number(table[key], f"{where}, {key}") for key in ("scale", "offset") if key in table
    }
    if "clamp" in table:
        limits = table["clamp"]
        if not isinstance(limits, list) or len(limits) != 2:
            raise _Fault(f"{where}, clamp: [lowest, highest] is wanted")
        low, high = (_number(limit, f"{where}, clamp") for limit in limits)
        if low > high:
            raise _Fault(f"{where}, clamp: the lowest value is above the highest")
        found["clamp"] = (low, high)
    return found


def _unit(name: object, where: str) -> int:
    if name in ARKIT_NAMES:
        return ARKIT_NAMES.index(str(name))
    raise _Fault(f"{where}: there is no unit {name!r}{_suggestion(str(name), ARKIT_NAMES)}")


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Fault(f"{where}: a number is wanted, not {value!r}")
    return float(value)


def _typed(table: Mapping[str, Any], key: str, kind: type, default: object) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        wanted = {dict: "a table", list: "a list", bool: "true or false"}[kind]
        raise _Fault(f"{key}: {wanted} is wanted, not {value!r}")
    return value


def _check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    choices = list(known)
    for key in table:
        if key not in choices:
            raise _Fault(f"{where}: there is no setting {key!r}{_suggestion(key, choices)}")


def _suggestion(name: str, choices: Iterable[str]) -> str:
    lowered = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""
