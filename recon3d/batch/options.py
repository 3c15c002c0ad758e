"""How an item of a batch is done: the command's options, and those that a manifest gives for one item."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recon3d._results import OVERLAY, PHOTO_FORMATS
from recon3d.errors import UsageError

if TYPE_CHECKING:
    from recon3d._cli_photo import PhotoSettings
    from recon3d._video_job import VideoSettings

Kind = Literal["clip", "photo"]


@dataclass(frozen=True)
class ItemOptions:
    """What may differ from item to item; the names are those of the command's options.

    Attributes:
        format: Formats of a clip's results; empty for those that ``recon3d video`` writes by default.
        photo_format: Formats of a photograph's results; empty likewise.
        face: Clips: ``"all"``, ``"largest"``, or at most so many.
        smooth: Clips: smoothing in time, in [0, 1].
        calibrate: Clips: ``START:END``, s, in which the face is at rest.
        focal: ``1200`` px, or ``50mm``.
        side_by_side: Clips: show the clip beside the overlay.
        fps: Clips: frame rate of the curves.
        sequence_fps: Clips: images per second of a numbered series.
        angles: Clips: unit of the angles in livelink.csv.
        map: Clips: curves for another rig.
        max_faces: Photographs: at most so many faces.
        landmarks: Photographs: the face source.
        refine: Photographs: fit the colours, too.
        delight: Photographs: take the light out of the texture.
    """

    format: tuple[str, ...] = ()
    photo_format: tuple[str, ...] = ()
    face: str = "all"
    smooth: float = 0.5
    calibrate: str | None = None
    focal: str | None = None
    side_by_side: bool = False
    fps: float | None = None
    sequence_fps: float | None = None
    angles: str | None = None
    map: str | None = None
    max_faces: int = 8
    landmarks: str = "mediapipe"
    refine: bool = False
    delight: bool = False

    def check(self) -> None:
        """Find out what is wrong with the options before any work.

        Raises:
            Recon3DError: An option is out of range, or names something that does not exist.
        """
        from recon3d._cli_export import export_options
        from recon3d._results import PHOTO_CHOICES, check_formats
        from recon3d._video_job import known_formats
        from recon3d.export import check_installed

        check_formats(self.format, known_formats())
        check_formats(self.photo_format, PHOTO_CHOICES)
        check_installed([name for name in (*self.format, *self.photo_format) if name != OVERLAY])
        self._clip_settings()
        if self.angles not in (None, "radians", "degrees", "normalized"):
            raise UsageError(f"angles {self.angles!r}: radians, degrees or normalized is wanted")
        if self.landmarks not in ("mediapipe", "fan"):
            raise UsageError(f"landmarks {self.landmarks!r}: mediapipe or fan is wanted")
        if self.max_faces < 1:
            raise UsageError(f"max_faces {self.max_faces}: 1 or more is wanted")
        rate = self.sequence_fps
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise UsageError(f"sequence_fps {rate}: images per second, above 0, are wanted")
        export_options(
            fps=self.fps, angles=self.angles, slate=None, take=1, subject="recon3d", names=self.map
        )

    def changed(self, values: Mapping[str, Any], folder: Path | None = None) -> ItemOptions:
        """Return these options with some of them as a manifest gives them, as text or as JSON's values.

        Args:
            values: By the options' names.
            folder: What a relative path of a name map starts from.

        Raises:
            UsageError: There is no such option, or a value is none.
        """
        given = {name.replace("-", "_"): value for name, value in values.items()}
        for name, value in given.items():
            if name not in _READERS:
                raise UsageError(f"there is no option {name!r}; there are {', '.join(_READERS)}")
            try:
                given[name] = _READERS[name](value)
            except (ValueError, TypeError, AttributeError) as error:
                raise UsageError(f"{name} {value!r}: {_WANTED[name]} is wanted") from error
        if folder is not None and given.get("map") and str(given["map"]).endswith(".toml"):
            given["map"] = str(folder / given["map"])
        return dataclasses.replace(self, **given)

    def text(self, kind: Kind) -> str:
        """Return all of the options that the results of this kind of item depend on, as JSON."""
        names = _OF_CLIPS if kind == "clip" else _OF_PHOTOS
        facts = {name: getattr(self, name) for name in names}
        if kind == "clip" and self.map is not None:
            facts["map"] = [self.map, file_digest(Path(self.map))]
        return json.dumps(facts, sort_keys=True)

    def _clip_settings(self) -> Any:
        from recon3d._cli_video import parse_faces, parse_stretch
        from recon3d.observe import ClipSettings

        rest = None if self.calibrate is None else parse_stretch(self.calibrate)
        return ClipSettings(parse_faces(self.face), self.smooth, rest, self.focal)

    def video(self, out: Path, models: Models, *, force: bool) -> VideoSettings:
        """Return them as the settings of a clip's worker."""
        from recon3d._cli_export import export_options
        from recon3d._video_job import VIDEO_FORMATS, VideoSettings

        return VideoSettings(
            out=out,
            formats=self.format or VIDEO_FORMATS,
            clip=self._clip_settings(),
            head=models.head,
            weights_dir=models.weights_dir,
            side_by_side=self.side_by_side,
            sequence_fps=self.sequence_fps,
            force=force,
            options=export_options(
                fps=self.fps, angles=self.angles, slate=None, take=1, subject="recon3d", names=self.map
            ),
            threads=models.threads,
            raster=models.raster,
            encoder=models.encoder,
        )

    def photo(self, out: Path, models: Models) -> PhotoSettings:
        """Return them as the settings of ``recon3d photo``."""
        from recon3d._cli_photo import PhotoSettings
        from recon3d._focal_option import Focal

        return PhotoSettings(
            out=out,
            formats=self.photo_format or PHOTO_FORMATS,
            head=models.head,
            device=models.device,
            landmarks="fan" if self.landmarks == "fan" else "mediapipe",
            weights_dir=models.weights_dir,
            max_faces=self.max_faces,
            focal=None if self.focal is None else Focal.parse(self.focal),
            landmark_dots=False,
            delight=self.delight,
            raster=models.raster,
            refine=self.refine,
            encoder=models.encoder,
        )


@dataclass(frozen=True)
class Models:
    """What every worker loads once.

    Attributes:
        head: File of a head model, or None.
        weights_dir: Folder of the face networks, or None.
        encoder: The image encoder: True for the one that comes with recon3d, weights, or False for none.
        raster: Name of the rasterizer, or None.
        device: A torch device.
        threads: LiteRT's and torch's threads of one worker, or None for the machine's.
    """

    head: Path | None = None
    weights_dir: Path | None = None
    encoder: Path | bool = True
    raster: str | None = None
    device: str = "cpu"
    threads: int | None = None

    def text(self) -> str:
        """Return all that the results depend on, with what is in the files, as JSON."""
        encoder = self.encoder if isinstance(self.encoder, bool) else file_digest(self.encoder)
        facts: dict[str, Any] = {"head": self.head and file_digest(self.head), "encoder": encoder}
        facts |= {"raster": self.raster, "device": self.device}
        if self.weights_dir is not None:
            facts["weights"] = [file_digest(file) for file in sorted(self.weights_dir.glob("*.task"))]
        return json.dumps(facts, sort_keys=True)


def file_digest(path: Path) -> str:
    """Return sixteen digits that change with what is in a file; the path itself where it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()[:16]
    except OSError:
        return str(path)


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(part.strip() for part in parts if part.strip())


def _text(value: Any) -> str | None:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value) or None
    if value is None:
        return None
    raise TypeError


def _word(value: Any) -> str:
    text = _text(value)
    if text is None:
        raise TypeError
    return text


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _rate(value: Any) -> float | None:
    return None if value is None else _number(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise TypeError
    return int(value)


def _switch(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "1"):
        return True
    if word in ("false", "no", "0"):
        return False
    raise ValueError


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "format": _names, "photo_format": _names, "face": _word, "smooth": _number, "calibrate": _text,
    "focal": _text, "side_by_side": _switch, "fps": _rate, "sequence_fps": _rate, "angles": _text,
    "map": _text, "max_faces": _whole, "landmarks": _word, "refine": _switch, "delight": _switch,
}  # fmt: skip
_SAID: Mapping[Callable[[Any], Any], str] = {
    _names: "names with commas", _word: "a word", _number: "a number", _text: "a text",
    _switch: "true or false", _rate: "a number", _whole: "a whole number",
}  # fmt: skip
_WANTED = {name: _SAID[reader] for name, reader in _READERS.items()}
_OF_PHOTOS = ("photo_format", "focal", "max_faces", "landmarks", "refine", "delight")
_OF_CLIPS = tuple(f.name for f in fields(ItemOptions) if f.name == "focal" or f.name not in _OF_PHOTOS)
