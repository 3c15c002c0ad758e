"""Writing captures in the formats of other programs: one module a format, and this registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from recon3d.errors import MissingExtraError, UsageError
from recon3d.export.options import DEFAULTS, ExportOptions
from recon3d.files import make_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from recon3d.capture import Capture
    from recon3d.head import HeadModel
    from recon3d.media.image import Photo

__all__ = ["FORMATS", "ExportOptions", "Format", "check_installed", "export"]


class Writer(Protocol):
    """What a format's module offers."""

    def __call__(
        self,
        capture: Capture,
        head: HeadModel,
        folder: Path,
        texture: npt.NDArray[np.uint8] | None,
        options: ExportOptions,
    ) -> list[Path]:
        """Write the files; ``folder`` exists."""


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        summary: What it is, for the user.
        module: Module with ``write(capture, head, folder, texture, options) -> list[Path]``; imported when
            used.
        textured: Whether it wants the photograph as a texture.
        extra: The extra of recon3d that installs what the module needs, or None.
        own_terms: Whether it wants the expression in the head's own terms, and no other will do. The others
            show it by the ARKit units, which animators know, on every head.
    """

    summary: str
    module: str
    textured: bool = False
    extra: str | None = None
    own_terms: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "obj": Format(
            "textured mesh: mesh.obj, mesh.mtl, mesh.jpg", "recon3d.export.obj", textured=True, own_terms=True
        ),
        "glb": Format(
            "rigged head with the units as morph targets: mesh.glb, or animation.glb of a clip",
            "recon3d.export.glb",
            textured=True,
        ),
        "glb-skeleton": Format(
            "the moving joints without a mesh: skeleton.glb", "recon3d.export.glb_skeleton", own_terms=True
        ),
        "glb-curves": Format(
            "the units' names and curves without a head: curves.glb", "recon3d.export.glb_curves"
        ),
        "usd": Format(
            "rigged, animated head as UsdSkel: animation.usdc, or mesh.usdc of a photograph",
            "recon3d.export.usd",
            textured=True,
            extra="usd",
        ),
        "fbx": Format(
            "rigged, animated head, through Blender: animation.fbx",
            "recon3d.export.fbx",
            textured=True,
            extra="blender",
        ),
        "blend": Format(
            "rigged, animated head as a Blender file: animation.blend",
            "recon3d.export.blend",
            textured=True,
            extra="blender",
        ),
        "obj-sequence": Format(
            "a textured mesh a frame, with head motion: obj/frame_000001.obj ...",
            "recon3d.export.obj_sequence",
            textured=True,
            own_terms=True,
        ),
        "ply-sequence": Format(
            "a coloured binary mesh a frame, with head motion: ply/frame_000001.ply ...",
            "recon3d.export.ply_sequence",
            own_terms=True,
        ),
        "arkit": Format("the 52 ARKit units by name: arkit.json", "recon3d.export.arkit_json"),
        "livelink": Format("Live Link Face take: <slate>_<take>_<subject>.csv", "recon3d.export.livelink"),
        "csv": Format("curves, head and box, one row a frame: curves.csv", "recon3d.export.curves_csv"),
        "json": Format("the same table: curves.json", "recon3d.export.curves_json"),
        "parquet": Format("the same table: curves.parquet", "recon3d.export.curves_parquet", extra="tables"),
        "bvh": Format("head, jaw and eyes as bones: head.bvh", "recon3d.export.bvh", own_terms=True),
        "flame-params": Format(
            "a FLAME head's parameters, for avatar tools: flame_params.npz",
            "recon3d.export.flame_params",
            own_terms=True,
        ),
        "report": Format("a page to look at a clip with: report.html", "recon3d.export.report"),
    }
)


def export(
    capture: Capture,
    head: HeadModel,
    folder: str | Path,
    format: str,
    *,
    photo: Photo | None = None,
    texture: npt.NDArray[np.uint8] | None = None,
    options: ExportOptions = DEFAULTS,
) -> list[Path]:
    """Write a capture in one format; return the files written, the main one first.

    Args:
        capture: What to write.
        head: The head model that it was made with.
        folder: Where to; created when missing. Files of an earlier run are replaced, each at once.
        format: A key of ``FORMATS``.
        photo: The photograph, for the texture of formats that have one; without it (and without
            ``texture``) they take the head model's own colours.
        texture: (H, W, 3) uint8, the result of ``recon3d.export.texture.bake_texture`` where it is
            at hand already: baking is the slow part, and several formats can share it.
        options: What the format can be told.

    Raises:
        UsageError: No such format.
        MissingExtraError: The format needs a package that is not installed; the message names the extra.
        InputError: The head or the photograph is not the capture's.
        OutputError: The files cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"no export format {format!r}; choose from {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    write = _writer(format, chosen)
    if chosen.textured and texture is None and photo is not None:
        from recon3d.export.texture import bake_texture

        texture = bake_texture(capture, head, photo)
    if not chosen.own_terms:
        capture, head = in_units(capture, head)
    return write(capture, head, make_folder(Path(folder)), texture, options)


def in_units(capture: Capture, head: HeadModel) -> tuple[Capture, HeadModel]:
    """Say a capture by the ARKit units alone, on the head that has them; as it is, if it is said so already.

    The units move jaw and eyeballs, so those joints rest. Heads that do not know the units stay as they are.

    Raises:
        InputError: The head is not the capture's.
    """
    if head.speaks_arkit or not head.knows_arkit:
        return capture, head
    from recon3d.conventions import JAW
    from recon3d.export._still import check_head

    check_head(capture, head)
    pose = capture.pose.copy()
    pose[:, JAW:] = 0
    units = head.in_units
    return replace(capture, head=units.id, expression=capture.arkit, pose=pose), units


def check_installed(formats: Iterable[str]) -> None:
    """Find out before the work whether the packages of some formats are there; names not known here pass.

    Raises:
        MissingExtraError: One is missing; the message names the extra.
    """
    for name in formats:
        if name in FORMATS and FORMATS[name].extra is not None:
            _writer(name, FORMATS[name])
            if FORMATS[name].extra == "blender":  # another process's; its format's module loads without
                from recon3d.export._blender import blender_command

                blender_command(name)


def _writer(name: str, chosen: Format) -> Writer:
    """Import a format's module; a package that is missing becomes the extra that installs it."""
    try:
        return cast("Writer", import_module(chosen.module).write)
    except ModuleNotFoundError as error:
        if chosen.extra is None:
            raise
        raise MissingExtraError(
            f"the format {name} needs {error.name}: pip install 'recon3d[{chosen.extra}]'"
        ) from error
