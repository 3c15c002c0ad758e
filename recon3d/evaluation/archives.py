"""Reads test sets: zip archives of pictures beside one JSON file that tells something of each."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError

Pixels = npt.NDArray[np.uint8]


def read_pictures(
    archive: str | Path, notes: str, wanted: str, choose: Callable[[list[str]], list[str]] = sorted
) -> Iterator[tuple[str, Pixels, Any]]:
    """Read pictures one at a time: name, (H,W,3) RGB, and what the JSON file notes of each.

    Args:
        archive: The zip file.
        notes: Name of the JSON file in it: an object with a key for each picture.
        wanted: What the archive is usually called.
        choose: Which of the names are read, in which order.

    Raises:
        InputError: The archive is missing, damaged, or is another one.
    """
    from PIL import Image

    path = Path(archive)
    try:
        with zipfile.ZipFile(path) as bundle:
            noted = json.loads(bundle.read(notes))
            for name in choose(list(noted)):
                with Image.open(io.BytesIO(bundle.read(name))) as image:
                    pixels = np.ascontiguousarray(np.asarray(image.convert("RGB")))
                yield name, pixels, noted[name]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {wanted} is needed") from error
    except (OSError, ValueError, AttributeError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not the archive of pictures with {notes}, or damaged") from error
