"""What an exporter can be told; each format reads what concerns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from recon3d.export.name_map import NameMap

Angles = Literal["radians", "degrees", "normalized"]


@dataclass(frozen=True)
class ExportOptions:
    """Options of the exporters.

    Attributes:
        fps: Frame rate to resample to; None takes the format's own default (60 for Live Link, the source's
            timestamps elsewhere); 0 asks for the source's own rate everywhere.
        angles: Unit of the nine angles of a Live Link file; None takes what the app itself writes.
        slate: Live Link: name of the take's slate; None takes the capture's source.
        take: Live Link: number of the take.
        subject: Live Link: name of the subject.
        names: Renames, scales and combines the curves for another rig; None leaves the ARKit units.
        delight: Textures: take the photograph's light out.
    """

    fps: float | None = None
    angles: Angles | None = None
    slate: str | None = None
    take: int = 1
    subject: str = "recon3d"
    names: NameMap | None = None
    delight: bool = False


DEFAULTS = ExportOptions()
