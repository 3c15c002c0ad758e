"""Measures the video path on this machine: curves against the truth, speed, growth with the length.

    python tools/bench_video.py curves [--data ../shared/data]
    python tools/bench_video.py speed CLIP.mp4 [--task face_landmarker.task]
    python tools/bench_video.py growth CLIP.mp4 [--minutes 0.5 5 30]

``curves`` films the open head acting a recording (its first half is the tuning split, its second half the
reported one) and recovers the curves. ``speed`` runs the command on a clip without and with the overlay, and
MediaPipe's own Tasks in video mode on the same frames, if the package mediapipe is there. ``growth`` loops a
clip to several lengths and takes time and peak memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recon3d.evaluation.performance import compare_curves, film, perform
from recon3d.evaluation.synthetic import read_live_link
from recon3d.head import load_head

Report = dict[str, Any]
_FPS = 30.0


def bench_curves(data: Path, keep: Path | None) -> Report:
    """Film both halves of the recording, in the head's own colours and textured, and recover the curves."""
    from recon3d.capture import Capture
    from recon3d.media.video import VideoWriter

    head = load_head()
    take = read_live_link(data / "livelink" / "rom_3.csv")
    half = len(take) // 2
    report: Report = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        skin = _astronaut_texture()
        for split, rows, seed in (("tune", slice(0, half, 2), 3), ("report", slice(half, None, 2), 4)):
            acted = perform(head, take[rows], _FPS, seed)
            for look, texture in (("plain", None), ("textured", skin)):
                clip = folder / f"{split}-{look}.mp4"
                if not clip.is_file():
                    with VideoWriter(clip, (480, 480), _FPS, crf=16) as video:
                        for k, pixels in enumerate(film(head, acted, texture, seed)):
                            video.write(pixels, k / _FPS)
                run(["video", str(clip), "--out", str(folder / "out"), "-f", "livelink", "--force", "-q"])
                capture = Capture.load(folder / "out" / clip.stem / "capture.npz")
                found = compare_curves(capture.arkit, acted.expression.numpy())
                report[clip.stem] = {**asdict(found), "tracked": float(capture.tracked.mean())}
                print(clip.stem, json.dumps(report[clip.stem]), flush=True)
    return report


def _astronaut_texture() -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """A real face's texture: that of scikit-image's public-domain photograph."""
    import skimage.data

    import recon3d
    from recon3d.export.texture import bake_texture
    from recon3d.media.image import Photo

    photo = Photo(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    return bake_texture(recon3d.reconstruct(photo)[0], load_head(), photo, size=1024)


def bench_speed(clip: Path, task: Path | None, runs: int) -> Report:
    """Time the command on a clip, and MediaPipe's tracker alone on the same decoded frames."""
    from recon3d.media.video import open_clip

    with open_clip(clip) as opened:
        frames = [frame.pixels for frame in opened.frames()]
        size = opened.size
    count = len(frames)
    report: Report = {"frames": count, "size": size}
    with tempfile.TemporaryDirectory() as out:
        for name, formats in (("without overlay", "livelink,glb,report"), ("with overlay", None)):
            seconds = []
            for k in range(runs):
                given = [] if formats is None else ["-f", formats]
                seconds.append(run(["video", str(clip), "--out", f"{out}/{name}{k}", "-q", *given])[0])
            report[name] = {
                "whole process s": float(np.median(seconds)),
                "frames a second": count / float(np.median(seconds)),
            }
            print(name, json.dumps(report[name]), flush=True)
        loaded = _loaded(clip, Path(out))
    report["loaded"] = {"ms a frame": 1000 * loaded / count, "frames a second": count / loaded}
    print("without start-up and overlay", json.dumps(report["loaded"]), flush=True)
    peer = _mediapipe(frames, task)
    if peer is not None:
        report["mediapipe ms a frame"] = peer
        report["ratio"] = report["loaded"]["ms a frame"] / peer
        print(f"mediapipe alone {peer:.2f} ms a frame, ratio {report['ratio']:.2f}")
    return report


def _loaded(clip: Path, out: Path) -> float:
    """Seconds of the whole work on a clip (decode, track, solve, write), all models loaded."""
    from recon3d._video_job import VideoSettings, VideoWorker
    from recon3d.observe import ClipSettings

    worker = VideoWorker(VideoSettings(out, ("livelink", "glb"), ClipSettings()))
    worker.prepare()
    seconds = []
    for k in range(3):
        start = time.perf_counter()
        worker.run(clip, f"loaded{k}", lambda step, done, total: None)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _mediapipe(frames: list[Any], task: Path | None) -> float | None:
    """Median milliseconds a frame of MediaPipe's Face Landmarker in video mode, scores included."""
    try:
        import mediapipe as mp
    except ImportError:
        return None
    from recon3d.assets import fetch

    vision = mp.tasks.vision
    options = vision.FaceLandmarkerOptions(
        base_options=mp.tasks.BaseOptions(model_asset_path=str(task or fetch("face_landmarker"))),
        running_mode=vision.RunningMode.VIDEO,
        output_face_blendshapes=True,
        num_faces=1,
    )
    seconds = []
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for k, pixels in enumerate(frames):
            start = time.perf_counter()
            landmarker.detect_for_video(mp.Image(mp.ImageFormat.SRGB, pixels), k * 33)
            seconds.append(time.perf_counter() - start)
    return 1000 * float(np.mean(seconds[5:]))


def bench_growth(clip: Path, minutes: list[float]) -> Report:
    """Time and memory of the command on loops of a clip."""
    report: Report = {}
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            looped = Path(folder) / f"{length:g}min.mp4"
            frames = loop(clip, length * 60, looped)
            seconds, peak = run(["video", str(looped), "--out", folder, "-f", "livelink,glb", "-q"])
            report[f"{length:g} min"] = {
                "frames": frames, "s": seconds, "ms a frame": 1000 * seconds / frames, "peak MB": peak,
            }  # fmt: skip
            print(f"{length:g} min", json.dumps(report[f"{length:g} min"]), flush=True)
            looped.unlink()
    return report


def loop(clip: Path, seconds: float, target: Path) -> int:
    """Write a clip's video again and again, without encoding it anew; return the number of frames."""
    import av

    count, offset = 0, 0
    with av.open(str(target), "w") as out:
        stream = None
        while True:
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                end = offset
                for packet in source.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    end = max(end, packet.pts + (packet.duration or 1))
                    out.mux(packet)
                    count += 1
                offset = end
                if float(offset * video.time_base) >= seconds:
                    return count


def run(arguments: list[str]) -> tuple[float, float]:
    """Run the command; return seconds and peak memory, MB, of its process."""
    code = (
        "import resource, sys; from recon3d.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    return seconds, int(done.stderr.split()[-1]) * unit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    curves = kinds.add_parser("curves")
    curves.add_argument("--data", type=Path, default=Path("../shared/data"))
    curves.add_argument("--keep", type=Path, help="keep the clips and results in this folder")
    speed = kinds.add_parser("speed")
    speed.add_argument("clip", type=Path)
    speed.add_argument("--task", type=Path)
    speed.add_argument("--runs", type=int, default=3)
    growth = kinds.add_parser("growth")
    growth.add_argument("clip", type=Path)
    growth.add_argument("--minutes", type=float, nargs="+", default=[0.5, 5, 30])
    for kind in (curves, speed, growth):
        kind.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kind == "curves":
        report = bench_curves(options.data, options.keep)
    elif options.kind == "speed":
        report = bench_speed(options.clip, options.task, options.runs)
    else:
        report = bench_growth(options.clip, options.minutes)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
