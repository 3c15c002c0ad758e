"""Which curves the report draws, and how they are grouped."""

from __future__ import annotations

from dataclasses import dataclass

from recon3d.conventions import ARKIT_NAMES


@dataclass(frozen=True)
class Row:
    """One plot.

    Attributes:
        label: What people call it.
        curves: Keys of the curves: subject's left and right, or yaw, pitch, roll, or a single one.
        unit: Unit of the values as shown, or "" for values in [0, 1].
        note: What the values are measured from, where that is not plain.
    """

    label: str
    curves: tuple[str, ...]
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Region:
    """A titled group of plots."""

    title: str
    rows: tuple[Row, ...]


CONFIDENCE = "confidence"
ANGLES = ("headYaw", "headPitch", "headRoll")
POSITION = ("headX", "headY", "headZ")


def _unit_row(label: str, stem: str) -> Row:
    """``eyeBlink`` is a plot of ``eyeBlinkLeft`` and ``eyeBlinkRight``, ``jawOpen`` one of itself."""
    pair = (f"{stem}Left", f"{stem}Right")
    return Row(label, pair if pair[0] in ARKIT_NAMES else (stem,))


def _units(title: str, *rows: tuple[str, str]) -> Region:
    return Region(title, tuple(_unit_row(label, stem) for label, stem in rows))


REGIONS: tuple[Region, ...] = (
    Region("Tracking", (Row("Confidence", (CONFIDENCE,)),)),
    _units("Brows", ("Down", "browDown"), ("Inner up", "browInnerUp"), ("Outer up", "browOuterUp")),
    _units("Eyes", ("Blink", "eyeBlink"), ("Squint", "eyeSquint"), ("Wide", "eyeWide")),
    _units(
        "Gaze",
        ("Look up", "eyeLookUp"),
        ("Look down", "eyeLookDown"),
        ("Look in", "eyeLookIn"),
        ("Look out", "eyeLookOut"),
    ),
    _units(
        "Nose and cheeks",
        ("Nose sneer", "noseSneer"),
        ("Cheek squint", "cheekSquint"),
        ("Cheek puff", "cheekPuff"),
    ),
    _units("Jaw", ("Open", "jawOpen"), ("Forward", "jawForward"), ("Sideways", "jaw")),
    _units(
        "Mouth: corners",
        ("Smile", "mouthSmile"),
        ("Frown", "mouthFrown"),
        ("Dimple", "mouthDimple"),
        ("Stretch", "mouthStretch"),
        ("Sideways", "mouth"),
    ),
    _units(
        "Mouth: lips",
        ("Close", "mouthClose"),
        ("Funnel", "mouthFunnel"),
        ("Pucker", "mouthPucker"),
        ("Press", "mouthPress"),
        ("Upper up", "mouthUpperUp"),
        ("Lower down", "mouthLowerDown"),
        ("Roll upper", "mouthRollUpper"),
        ("Roll lower", "mouthRollLower"),
        ("Shrug upper", "mouthShrugUpper"),
        ("Shrug lower", "mouthShrugLower"),
    ),
    _units("Tongue", ("Out", "tongueOut")),
    Region(
        "Head",
        (
            Row("Rotation", ANGLES, "°", "+ is left, up, left ear raised"),
            Row("Position", POSITION, "cm", "from its middle: right in the picture, up, nearer"),
        ),
    ),
)
