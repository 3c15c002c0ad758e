"""Compare recon3d's faces with those of MediaPipe's own Face Landmarker on photographs.

Both run the same networks; what is measured is the code around them. Needs the test extra (mediapipe).

    python tools/face_parity.py --data ../shared/data --count 150 --json parity.json
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import platform
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from recon3d.assets import fetch
from recon3d.conventions import ARKIT_NAMES
from recon3d.face import Face, open_face_source
from recon3d.face.landmarks import OUTER_EYE_CORNERS
from recon3d.files import atomic_path

Floats = npt.NDArray[np.float32]
ARCHIVES = ("celeba.zip", "wild.zip", "lfpw_train.zip")
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: What parity means: mean landmark difference in % of the box diagonal, and score difference.
MAX_LANDMARK_PERCENT = 0.5
MAX_SCORE = 0.03


@dataclass(frozen=True)
class Difference:
    """How one face differs: landmarks in % of two sizes, and (52,) absolute score differences."""

    photo: str
    of_diagonal: float
    of_eyes: float
    scores: Floats


class Reference:
    """MediaPipe's Face Landmarker in image mode."""

    def __init__(self, *, max_faces: int = 4) -> None:
        """Open the landmarker on the same task file that recon3d runs."""
        import mediapipe
        from mediapipe.tasks.python import vision
        from mediapipe.tasks.python.core.base_options import BaseOptions

        self._image: Any = mediapipe.Image
        self._format: Any = mediapipe.ImageFormat.SRGB
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(fetch("face_landmarker"))),
            output_face_blendshapes=True,
            num_faces=max_faces,
        )
        self._landmarker: Any = vision.FaceLandmarker.create_from_options(options)

    def find(self, pixels: npt.NDArray[np.uint8]) -> list[tuple[Floats, Floats]]:
        """Return (landmarks (478,3) px, scores (52,) in ARKIT_NAMES order) of every face."""
        result = self._landmarker.detect(self._image(image_format=self._format, data=pixels))
        height, width = pixels.shape[:2]
        faces = []
        for points, classes in zip(result.face_landmarks, result.face_blendshapes, strict=True):
            placed = np.array([(p.x * width, p.y * height, p.z * width) for p in points], np.float32)
            named = {c.category_name: c.score for c in classes}
            faces.append((placed, np.array([named.get(n, 0.0) for n in ARKIT_NAMES], np.float32)))
        return faces

    def close(self) -> None:
        """Free the landmarker; MediaPipe complains if the interpreter's exit has to."""
        self._landmarker.close()


def photographs(folder: Path, count: int) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Yield about ``count`` named photographs, spread evenly over the archives."""
    for archive in ARCHIVES:
        with zipfile.ZipFile(folder / "photos" / archive) as opened:
            names = sorted(n for n in opened.namelist() if n.lower().endswith((".jpg", ".png")))
            share = -(-count // len(ARCHIVES))
            for name in names[:: max(1, len(names) // share)][:share]:
                with Image.open(io.BytesIO(opened.read(name))) as image:
                    yield f"{archive}/{name}", np.array(image.convert("RGB"))


def compare(photo: str, reference: tuple[Floats, Floats], faces: list[Face]) -> Difference | None:
    """Measure the nearest of our faces against one of MediaPipe's; None if we have none there."""
    points, scores = reference
    diagonal = float(np.linalg.norm(np.ptp(points[:, :2], axis=0)))
    eyes = float(np.linalg.norm(points[OUTER_EYE_CORNERS[0], :2] - points[OUTER_EYE_CORNERS[1], :2]))
    best: Difference | None = None
    for face in faces:
        assert face.scores is not None
        off = float(np.linalg.norm(face.landmarks[:, :2] - points[:, :2], axis=1).mean())
        if off < 0.25 * diagonal and (best is None or off / diagonal * 100 < best.of_diagonal):
            best = Difference(photo, off / diagonal * 100, off / eyes * 100, np.abs(face.scores - scores))
    return best


def summarise(differences: list[Difference], photos: int, missed: int, extra: int) -> dict[str, Any]:
    """Gather the figures of a run, with what it ran on."""
    scores = np.stack([d.scores for d in differences])
    diagonal = np.array([d.of_diagonal for d in differences])
    worst_unit = int(scores.mean(0).argmax())
    blink = [ARKIT_NAMES.index(n) for n in ("eyeBlinkLeft", "eyeBlinkRight")]
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {n: version(n) for n in ("recon3d", "mediapipe", "ai-edge-litert", "torch")},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "photos": photos,
        "faces": len(differences),
        "faces_only_mediapipe_found": missed,
        "faces_only_recon3d_found": extra,
        "landmarks_percent_of_box_diagonal": _spread(diagonal),
        "landmarks_percent_of_outer_eye_distance": _spread(np.array([d.of_eyes for d in differences])),
        "scores_mean_abs_difference": float(scores.mean()),
        "scores_max_abs_difference": float(scores.max()),
        "blink_scores_mean_abs_difference": float(scores[:, blink].mean()),
        "share_of_faces_with_all_scores_within_0.03": float((scores.max(1) <= MAX_SCORE).mean()),
        "share_of_scores_within_0.03": float((scores <= MAX_SCORE).mean()),
        "worst_unit": {"name": ARKIT_NAMES[worst_unit], "mean": float(scores[:, worst_unit].mean())},
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    return {"mean": float(values.mean()), "p95": float(np.percentile(values, 95)), "max": float(values.max())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder that holds photos/*.zip")
    parser.add_argument("--count", type=int, default=150, help="photographs to compare on")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not (options.data / "photos").is_dir():
        parser.error(f"{options.data} has no folder photos; give --data")

    source, reference = open_face_source(), Reference()
    differences, photos, missed, extra = [], 0, 0, 0
    for photo, pixels in photographs(options.data, options.count):
        photos += 1
        theirs, ours = reference.find(pixels), source.find(pixels)
        found = [d for d in (compare(photo, face, ours) for face in theirs) if d is not None]
        differences += found
        missed += len(theirs) - len(found)
        extra += max(0, len(ours) - len(found))
    reference.close()
    if not differences:
        print("no face was found by both", file=sys.stderr)
        return 1

    figures = summarise(differences, photos, missed, extra)
    print(json.dumps(figures, indent=2))
    if options.json:
        with atomic_path(options.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
    close = figures["landmarks_percent_of_box_diagonal"]["mean"] <= MAX_LANDMARK_PERCENT
    return 0 if close and figures["scores_mean_abs_difference"] <= MAX_SCORE else 1


if __name__ == "__main__":
    raise SystemExit(main())
