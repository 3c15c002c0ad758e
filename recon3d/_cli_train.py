"""``recon3d train``: the encoder's training, by configuration files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon3d.training.config import DataConfig
    from recon3d.training.stage1 import Score


@dataclass(frozen=True)
class Places:
    """Files and folders that take the place of the configuration's.

    Attributes:
        renders: Where renders are kept.
        recording: That expressions are drawn from.
        head: The head model.
    """

    renders: Path | None = None
    recording: Path | None = None
    head: Path | None = None

    def into(self, data: DataConfig) -> DataConfig:
        """Return the configuration with these places."""
        return replace(
            data,
            folder=data.folder if self.renders is None else str(self.renders),
            recording=data.recording if self.recording is None else str(self.recording),
            head=data.head if self.head is None else str(self.head),
        )


def run_stage1(config: str, out: Path, places: Places, as_json: bool) -> None:
    """Train the first stage and print its scores; with ``as_json`` the last line is one object.

    Raises:
        Recon3DError: The configuration is wrong, a package is missing, or a folder cannot be written to.
    """
    from recon3d.training.config import read_config
    from recon3d.training.stage1 import Stage1

    chosen = read_config(config)
    data = places.into(chosen.data)
    scores = Stage1(replace(chosen, data=data), out, _say).run()
    if as_json:
        print(json.dumps({name: asdict(score) for name, score in scores.items()}))
        return
    _print_scores(scores)
    print(f"weights: {out / 'encoder.safetensors'}")


def run_stage2(
    config: str, out: Path, start: tuple[Path | None, Path | None], places: Places, as_json: bool
) -> None:
    """Train the second stage and print its scores; with ``as_json`` the last line is one object.

    ``start``: encoder and painter to start from.

    Raises:
        Recon3DError: The configuration or the encoder is wrong, a package is missing, or a folder cannot be
            written to.
    """
    from recon3d.training.config import read_stage2_config
    from recon3d.training.stage2 import Stage2

    chosen = read_stage2_config(config)
    data = places.into(chosen.data)
    painted, scores = Stage2(replace(chosen, data=data), out, start[0], _say, start[1]).run()
    if as_json:
        print(json.dumps({"synthesis": asdict(painted)} | {k: asdict(v) for k, v in scores.items()}))
        return
    print(f"painted: difference {painted.difference:.3f}, units read out again within {painted.cycle:.3f}")
    _print_scores(scores)
    print(f"weights: {out / 'encoder.safetensors'}, {out / 'painter.safetensors'}")


def _say(line: str) -> None:
    print(line, flush=True)


def _print_scores(scores: Mapping[str, Score]) -> None:
    for name, score in scores.items():
        print(
            f"{name} settings: correlation {score.correlation:.3f}, mean error {score.mae:.3f}, "
            f"rotation {score.rotation:.1f} degrees"
        )


def run_export_onnx(weights: Path, out: Path) -> None:
    """Write the encoder as an ONNX file.

    Raises:
        Recon3DError: The weights cannot be read, a package is missing, or the file cannot be written.
    """
    from recon3d.encoder.onnx import export_onnx
    from recon3d.encoder.weights import load_weights

    export_onnx(load_weights(weights), out)
    print(out)
