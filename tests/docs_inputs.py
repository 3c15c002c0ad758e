"""The files that the documentation's commands name: made once, and each page gets a copy of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import skimage.data
from face_clips import face_frames, write_clip
from PIL import Image

from recon3d.conventions import ARKIT_NAMES

FRAMES = 16


def make_inputs(folder: Path, run: Any) -> Path:
    """Make what most pages name: photographs, a clip, a capture, a take, a map of names.

    ``run`` is given the words of a call of recon3d.
    """
    photo = Image.fromarray(skimage.data.astronaut())
    photo.save(folder / "portrait.jpg", quality=95)
    for name in ("shoot/one.jpg", "shoot/two.jpg", "archive/old.png", "clips/anna.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        photo.crop((40, 0, 440, 400)).save(folder / name)
    write_clip(folder / "take.mp4", face_frames(FRAMES))
    (folder / "clips/day1").mkdir()
    shutil.copy(folder / "take.mp4", folder / "clips/day1")
    run("video", "take.mp4", "--out", "made", "--format", "livelink")
    shutil.copy(folder / "made/take/livelink.csv", folder / "MySlate_1_iPhone.csv")
    for name in ("take", "clip"):
        (folder / name).mkdir()
        shutil.copy(folder / "made/take/capture.npz", folder / name)
    shutil.rmtree(folder / "made")
    names = "\n".join(f'"Face.{name}" = "{name}"' for name in ARKIT_NAMES)
    (folder / "my_names.toml").write_text(f'format = "recon3d-names/1"\n\n[curves]\n{names}\n')
    scores = [{"categoryName": name, "score": 0.3} for name in ARKIT_NAMES]
    (folder / "scores.json").write_text(json.dumps(scores))
    return folder


def add_heads(folder: Path, run: Any) -> None:
    """Make a stand-in of FLAME's file, its parameters, and a rig as artists have it; takes half a minute."""
    from flame_stand_in import cut_stand_in, write_stand_in
    from obj_rigs import write_rig

    from recon3d.head import load_head

    write_stand_in(folder / "generic_model.pkl", cut_stand_in())
    write_rig(folder, load_head())
    words = ("convert", "take/capture.npz", "--head", "generic_model.pkl", "--format", "flame-params")
    run(*words, "--out", "made")
    shutil.copy(folder / "made/take/flame_params.npz", folder)
    shutil.rmtree(folder / "made")
