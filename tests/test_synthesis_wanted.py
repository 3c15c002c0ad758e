"""Expressions as people ask for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import UsageError
from recon3d.synthesis.wanted import ACTION_UNITS, emotion_names, wanted_expression

K = {name: k for k, name in enumerate(ARKIT_NAMES)}


def shown(values: np.ndarray) -> dict[str, float]:
    return {name: round(float(values[k]), 3) for name, k in K.items() if values[k] > 0}


def test_units_by_name_on_one_side_or_both() -> None:
    values = wanted_expression("mouthSmileLeft=.8, jawOpen=0.3")
    assert shown(values) == {"mouthSmileLeft": 0.8, "jawOpen": 0.3}
    assert shown(wanted_expression("eyeBlink=1")) == {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}


def test_what_is_not_asked_for_stays() -> None:
    start = wanted_expression("browInnerUp=.5,jawOpen=.2")
    assert shown(wanted_expression("jawOpen=0", start=start)) == {"browInnerUp": 0.5}
    assert "browInnerUp" not in shown(wanted_expression(emotion="happy", start=start))


def test_emotions_have_several_names_and_a_strength() -> None:
    assert np.array_equal(wanted_expression(emotion="happy"), wanted_expression(emotion="joy"))
    half = wanted_expression(emotion="surprised=.5")
    np.testing.assert_allclose(half, wanted_expression(emotion="surprise") / 2)
    for name in emotion_names():
        assert shown(wanted_expression(emotion=name)), name


def test_action_units_on_one_side_or_both() -> None:
    assert shown(wanted_expression(action_units="12=.7")) == {"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7}
    assert shown(wanted_expression(action_units="AU12L=.7")) == {"mouthSmileLeft": 0.7}
    assert shown(wanted_expression(action_units="26=1,30R=.5")) == {"jawOpen": 0.4, "jawRight": 0.5}
    for name in ACTION_UNITS:
        assert shown(wanted_expression(action_units=f"{name}=1")), name


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"units": "mouthSmiles=.5"}, "no unit 'mouthSmiles'; 'mouthSmile' perhaps"),
        ({"units": "jawOpen=2"}, "'jawOpen=2': write NAME=VALUE with a value from 0 to 1"),
        ({"units": "jawOpen"}, "write NAME=VALUE"),
        ({"units": "jawOpen=nan"}, "write NAME=VALUE"),
        ({"emotion": "hungry"}, "no emotion 'hungry'; there are afraid, "),
        ({"action_units": "11=1"}, "no action unit '11'; there are 1, 2, 4"),
        ({"action_units": "1L=1"}, "no action unit '1L'"),
    ],
)
def test_what_does_not_exist_is_explained(asked: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        wanted_expression(**asked)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_documented_table_is_what_is_used() -> None:
    page = (Path(__file__).parents[1] / "docs" / "repaint.md").read_text()
    rows = re.findall(r"^\| (\d+[LR]?) \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    told = {
        number: {name: float(share) for name, share in re.findall(r"`(\w+)` ([\d.]+)", units)}
        for number, units in rows
    }
    assert told == {number: dict(units) for number, units in ACTION_UNITS.items()}
