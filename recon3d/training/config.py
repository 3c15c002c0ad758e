"""What a training run does, read from a TOML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from recon3d.encoder.network import EncoderConfig
from recon3d.errors import InputError
from recon3d.synthesis.painter import PainterConfig
from recon3d.training.losses import LossWeights, SynthesisWeights

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Configurations that come with recon3d.
CONFIGS = Path(__file__).parent / "configs"
_Section = TypeVar("_Section")


@dataclass(frozen=True)
class DataConfig:
    """Renders to learn from.

    Attributes:
        renders: How many, rounded up to whole shards.
        held_out: How many to judge by, of each kind: the same settings, and others; rounded up likewise.
        shard: Pictures a shard.
        folder: Where they are kept.
        workers: Processes that draw them.
        seed: Of everything random about them.
        recording: Live Link CSV that expressions are drawn from; none if empty.
        head: File of the head model that is drawn, and whose identities are learnt; the open head if empty.
        photographs: Zip files or folders of photographs to learn from beside the renders. Their terms hold
            for the weights, too.
        photographs_share: Of each step's faces against its renders.
        clips: Videos, or folders of them, in which the second stage watches how mouths move, if
            ``losses.mouth`` says so. Their terms hold for the weights, too.
    """

    renders: int = 49152
    held_out: int = 2048
    shard: int = 1024
    folder: str = "renders"
    workers: int = 2
    seed: int = 1
    recording: str = ""
    head: str = ""
    photographs: tuple[str, ...] = ()
    photographs_share: float = 0.25
    clips: tuple[str, ...] = ()


@dataclass(frozen=True)
class OptimizerConfig:
    """How to learn.

    Attributes:
        minutes: Length of the run, wall clock; what went before a checkpoint counts.
        passes: Passes over the renders; the run ends with whichever comes first, and the learning rate falls
            to zero over the passes.
        batch: Pictures a step (of each process).
        rate: Highest learning rate of new layers.
        trunk_rate: The same of the pretrained trunk; 0 leaves it as it came, and it need look at every render
            only once.
        frozen: Stages of the trunk, finest first, that stay as they came in any case. Most of the time would
            go into the finest, which see edges and little else.
        warm_up: Steps over which the rate rises.
        decay: Weight decay.
        average: Decay of the averaged weights a step.
        precision: Of Lightning Fabric: "32-true", "bf16-mixed", "16-mixed".
    """

    minutes: float = 60
    passes: float = 12
    batch: int = 128
    rate: float = 1e-3
    trunk_rate: float = 0.0
    frozen: int = 2
    warm_up: int = 200
    decay: float = 0.02
    average: float = 0.998
    precision: str = "32-true"


@dataclass(frozen=True)
class Stage1Config:
    """A run of the first stage: the encoder from renders.

    Attributes:
        network: Sizes.
        data: Renders.
        reading: How to learn to read what the pretrained trunk sees.
        whole: How to go on, the trunk learning too.
        losses: What counts how much.
    """

    network: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reading: OptimizerConfig = field(default_factory=OptimizerConfig)
    whole: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            minutes=30, passes=3, batch=64, rate=3e-4, trunk_rate=1e-4, warm_up=100
        )
    )
    losses: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True)
class Stage2Config:
    """A run of the second stage: the encoder and the neural renderer from each other.

    Attributes:
        painter: Sizes of the neural renderer.
        data: Faces: photographs if there are any, else renders.
        painting: How the painter learns alone first: of renders with their true geometry.
        learning: How both learn: ``rate`` is the painter's.
        encoder: Highest learning rate of the encoder.
        known: Renders beside, a step, whose truth holds the encoder; they cost little.
        share: Of a picture's pixels that the painter is shown within the face, at least, and ...
        share_most: ... at most: how many is drawn anew for every picture.
        losses: What counts how much.
        truth: The same within the first stage's losses.
    """

    painter: PainterConfig = field(default_factory=PainterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    painting: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(batch=32, warm_up=100))
    learning: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(batch=32, warm_up=100))
    encoder: float = 1e-4
    known: int = 64
    share: float = 0.01
    share_most: float = 0.01
    losses: SynthesisWeights = field(default_factory=SynthesisWeights)
    truth: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        """Refuse shares that cannot be, and a loss of clips without clips.

        Raises:
            ValueError: Says which.
        """
        if not 0 < self.share <= self.share_most <= 1:
            raise ValueError("0 < share <= share_most <= 1 must hold")
        if self.losses.mouth and not self.data.clips:
            raise ValueError("losses.mouth is of clips, and data.clips names none")


def read_config(name: str | Path) -> Stage1Config:
    """Read a configuration of the first stage.

    Args:
        name: A TOML file, or the name of one that comes with recon3d (``stage1``, ``smoke``).

    Raises:
        InputError: There is no such file, or it says something that does not exist.
    """
    return _read(Stage1Config, name)


def read_stage2_config(name: str | Path) -> Stage2Config:
    """Read a configuration of the second stage (``stage2``, ``smoke2``), as ``read_config``."""
    return _read(Stage2Config, name)


def _read(kind: type[_Section], name: str | Path) -> _Section:
    path = Path(name)
    if not path.suffix and not path.exists():
        path = CONFIGS / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        known = ", ".join(_shipped(kind))
        raise InputError(f"{name}: no such configuration; give a TOML file, or one of {known}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error
    return _section(kind, values, str(path))


def _shipped(kind: type[_Section]) -> list[str]:
    """Names of the configurations that come with recon3d and are of this stage: those with its tables."""
    tables = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return sorted(p.stem for p in CONFIGS.glob("*.toml") if tables.issuperset(tomllib.loads(p.read_text())))


def _section(kind: type[_Section], values: dict[str, Any], place: str) -> _Section:
    """Build a dataclass from a table, refusing what it does not have."""
    kinds = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    read: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{place}: {key!r} does not exist; choose of {', '.join(sorted(known))}")
        wanted = kinds[key]
        if is_dataclass(wanted) and isinstance(wanted, type):
            if not isinstance(value, dict):
                raise InputError(f"{place}: {key!r} must be a table")
            read[key] = _section(wanted, value, f"{place}: [{key}]")
        elif wanted == tuple[str, ...]:
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise InputError(f"{place}: {key!r} must be a list of texts, not {value!r}")
            read[key] = tuple(value)
        elif wanted is float and isinstance(value, int) and not isinstance(value, bool):
            read[key] = float(value)
        elif isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool):
            read[key] = value
        else:
            raise InputError(f"{place}: {key!r} must be of type {wanted.__name__}, not {value!r}")
    try:
        return kind(**read)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error
