"""What faces show: posed emotions, and what no face shows together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES

Floats = npt.NDArray[np.float32]

_INDEX = {name: k for k, name in enumerate(ARKIT_NAMES)}

#: Posed emotions, of both sides alike; a name without its side means both. From the action units that
#: P. Ekman and W. Friesen give them (EMFACS), said in ARKit's units.
EMOTIONS: Mapping[str, Mapping[str, float]] = {
    "joy": {"mouthSmile": 0.9, "cheekSquint": 0.6, "eyeSquint": 0.4, "mouthDimple": 0.2, "mouthUpperUp": 0.3},
    "laughter": {
        "mouthSmile": 1.0,
        "jawOpen": 0.5,
        "cheekSquint": 0.7,
        "eyeSquint": 0.5,
        "mouthUpperUp": 0.5,
    },
    "sadness": {"browInnerUp": 0.8, "mouthFrown": 0.7, "mouthShrugLower": 0.4, "eyeSquint": 0.2},
    "anger": {"browDown": 0.9, "eyeWide": 0.3, "noseSneer": 0.4, "mouthPress": 0.6, "jawForward": 0.2},
    "rage": {"browDown": 1.0, "noseSneer": 0.8, "jawOpen": 0.4, "mouthUpperUp": 0.7, "mouthLowerDown": 0.6},
    "fear": {"browInnerUp": 0.9, "browOuterUp": 0.4, "eyeWide": 0.8, "mouthStretch": 0.6, "jawOpen": 0.25},
    "disgust": {
        "noseSneer": 0.9,
        "mouthUpperUp": 0.6,
        "browDown": 0.5,
        "mouthFrown": 0.3,
        "cheekSquint": 0.3,
    },
    "surprise": {"browInnerUp": 0.9, "browOuterUp": 0.9, "eyeWide": 0.7, "jawOpen": 0.6},
    "contempt": {"mouthSmileLeft": 0.4, "mouthDimpleLeft": 0.7, "mouthPressLeft": 0.3, "noseSneerLeft": 0.15},
    "doubt": {"browDownLeft": 0.6, "browOuterUpRight": 0.8, "mouthShrugLower": 0.4, "mouthPress": 0.3},
    "pain": {"browDown": 0.7, "eyeBlink": 0.8, "cheekSquint": 0.8, "mouthStretch": 0.5, "noseSneer": 0.5},
    "pout": {"mouthShrugLower": 0.8, "mouthPucker": 0.3, "mouthRollUpper": 0.2, "browDown": 0.2},
    "kiss": {"mouthPucker": 1.0, "eyeBlink": 0.3},
    "puff": {"cheekPuff": 1.0, "mouthPucker": 0.3, "mouthClose": 0.0},
    "shrug": {"mouthShrugLower": 0.6, "mouthShrugUpper": 0.5, "mouthFrown": 0.5, "browInnerUp": 0.3},
    "bite": {"mouthRollLower": 0.9, "jawOpen": 0.15},
    "tight": {"mouthRollLower": 0.7, "mouthRollUpper": 0.7, "mouthPress": 0.6},
}

#: Pairs that undo each other; of such a pair only the stronger stays.
_OPPOSED = tuple(
    (_INDEX[a], _INDEX[b])
    for a, b in (
        ("jawLeft", "jawRight"),
        ("mouthLeft", "mouthRight"),
        *((f"eyeLookUp{s}", f"eyeLookDown{s}") for s in ("Left", "Right")),
        *((f"eyeLookIn{s}", f"eyeLookOut{s}") for s in ("Left", "Right")),
        *((f"eyeBlink{s}", f"eyeWide{s}") for s in ("Left", "Right")),
        *((f"browOuterUp{s}", f"browDown{s}") for s in ("Left", "Right")),
        *((f"mouthSmile{s}", f"mouthFrown{s}") for s in ("Left", "Right")),
    )
)


def settle(values: Floats) -> Floats:
    """Leave out what no face can show together: (52,) in [0,1]."""
    values = np.clip(values, 0, 1)
    for a, b in _OPPOSED:
        values[a if values[a] < values[b] else b] = 0
    # Lips that close over an open jaw; alone the unit would push one lip through the other.
    close, jaw = _INDEX["mouthClose"], _INDEX["jawOpen"]
    values[close] = min(values[close], values[jaw])
    # A tongue needs an opening.
    tongue = _INDEX["tongueOut"]
    if values[tongue] > 0.2:
        values[jaw] = max(values[jaw], 0.25 + 0.2 * values[tongue])
        values[close] = 0
    return values.astype(np.float32)
