"""``recon3d train``: the encoder's training, by configuration files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path


def run_stage1(config: str, out: Path, renders: Path | None, recording: Path | None, as_json: bool) -> None:
    """Train the first stage and print its scores; with ``as_json`` the last line is one object.

    Raises:
        Recon3DError: The configuration is wrong, a package is missing, or a folder cannot be written to.
    """
    from recon3d.training.config import read_config
    from recon3d.training.stage1 import Stage1

    chosen = read_config(config)
    data = chosen.data
    data = replace(
        data,
        folder=data.folder if renders is None else str(renders),
        recording=data.recording if recording is None else str(recording),
    )
    scores = Stage1(replace(chosen, data=data), out, lambda line: print(line, flush=True)).run()
    if as_json:
        print(json.dumps({name: asdict(score) for name, score in scores.items()}))
        return
    for name, score in scores.items():
        print(
            f"{name} settings: correlation {score.correlation:.3f}, mean error {score.mae:.3f}, "
            f"rotation {score.rotation:.1f} degrees"
        )
    print(f"weights: {out / 'encoder.safetensors'}")


def run_export_onnx(weights: Path, out: Path) -> None:
    """Write the encoder as an ONNX file.

    Raises:
        Recon3DError: The weights cannot be read, a package is missing, or the file cannot be written.
    """
    from recon3d.encoder.onnx import export_onnx
    from recon3d.encoder.weights import load_weights

    export_onnx(load_weights(weights), out)
    print(out)
