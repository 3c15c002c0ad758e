"""Name maps: presets, every operation, and what is said of a map that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError, UsageError
from recon3d.export.name_map import PRESETS, NameMap

HEADER = 'format = "recon3d-names/1"\n'
DOCS = Path(__file__).resolve().parent.parent / "docs" / "name_maps.md"


def unit(**values: float) -> np.ndarray:
    """One frame of units, the others at zero: (1, 52)."""
    row = np.zeros((1, 52))
    for name, value in values.items():
        row[0, ARKIT_NAMES.index(name)] = value
    return row


def parsed(text: str) -> NameMap:
    return NameMap.parse((HEADER + text).encode(), "my.toml")


def applied(text: str, **values: float) -> dict[str, float]:
    names = parsed(text)
    (row,) = names.apply(unit(**values))
    return dict(zip(names.names, row.tolist(), strict=True))


def test_unity_has_all_units_in_percent() -> None:
    names = NameMap.load("unity")
    assert len(set(names.names)) == 52
    assert all(name.startswith("blendShape1.") for name in names.names)
    values = np.random.default_rng(0).uniform(0, 1, (3, 52)).astype(np.float32)
    np.testing.assert_allclose(names.apply(values), 100 * values, rtol=1e-6)
    found = dict(zip(ARKIT_NAMES, names.names, strict=True))
    assert found["eyeBlinkLeft"] == "blendShape1.eyeBlink_L"
    assert found["mouthLowerDownRight"] == "blendShape1.mouthLowerDown_R"
    assert (found["jawLeft"], found["mouthRight"]) == ("blendShape1.jawLeft", "blendShape1.mouthRight")
    assert names.renames is None  # the scale is another


def vrm(**values: float) -> dict[str, float]:
    names = NameMap.load("vrm")
    (row,) = names.apply(unit(**values))
    return {name: value for name, value in zip(names.names, row.tolist(), strict=True) if value > 1e-9}


def test_vrm_presets() -> None:
    names = NameMap.load("vrm").names
    assert set(names) == {
        "blink", "blinkLeft", "blinkRight", "lookUp", "lookDown", "lookLeft", "lookRight",
        "aa", "ih", "ou", "ee", "oh", "happy", "angry", "sad", "surprised",
    }  # fmt: skip
    assert vrm() == {}
    assert vrm(eyeBlinkLeft=0.9, eyeBlinkRight=0.9) == pytest.approx({"blink": 0.9})
    assert vrm(eyeBlinkLeft=0.9, eyeBlinkRight=0.3) == pytest.approx({"blink": 0.3, "blinkLeft": 0.6})
    assert vrm(eyeBlinkRight=1.0) == pytest.approx({"blinkRight": 1.0})
    assert vrm(eyeLookOutLeft=0.8, eyeLookInRight=0.6) == pytest.approx({"lookLeft": 0.7})
    assert vrm(eyeLookInLeft=1, eyeLookOutRight=1) == pytest.approx({"lookRight": 1})
    assert max(vrm(jawOpen=0.6).items(), key=lambda item: item[1])[0] == "aa"
    assert list(vrm(mouthPucker=0.8)) == ["ou"]
    assert max(vrm(mouthFunnel=0.8, jawOpen=0.3).items(), key=lambda item: item[1])[0] == "oh"
    assert list(vrm(mouthSmileLeft=0.8, mouthSmileRight=0.8)) == ["happy"]
    assert list(vrm(mouthSmileLeft=0.1, mouthSmileRight=0.1)) == []  # a face at rest has a mood of none
    assert list(vrm(browDownLeft=0.9, browDownRight=0.9)) == ["angry"]
    everything = NameMap.load("vrm").apply(np.ones((1, 52)))
    assert everything.max() <= 1


def test_operations() -> None:
    assert applied('[curves]\nJaw = "jawOpen"', jawOpen=0.4) == {"Jaw": 0.4}
    text = "[curves.C]\nsum = {jawOpen = 0.5, mouthClose = -1}\nscale = 10\noffset = 2\n"
    assert applied(text, jawOpen=0.4, mouthClose=0.1)["C"] == pytest.approx(3.0)
    assert applied(text + "clamp = [0, 2.5]", jawOpen=0.4, mouthClose=0.1)["C"] == 2.5
    for way, wanted in (("max", 0.7), ("min", 0.3), ("sum", 1.0)):
        found = applied(f'[curves.C]\n{way} = ["jawOpen", "mouthClose"]', jawOpen=0.3, mouthClose=0.7)
        assert found["C"] == pytest.approx(wanted)
    assert applied("[curves.C]\nmax = {jawOpen = 2, mouthClose = 1}", jawOpen=0.3, mouthClose=0.5)["C"] == 0.6


def test_defaults_are_overridden_by_the_curve() -> None:
    defaults = "[defaults]\nscale = 100\nclamp = [0, 50]\n"
    text = '[curves]\na = "jawOpen"\n[curves.b]\nsum = "jawOpen"\nscale = 1'
    assert applied(defaults + text, jawOpen=0.8) == {"a": 50.0, "b": 0.8}


def test_keep_and_drop() -> None:
    names = parsed('keep = true\ndrop = ["tongueOut"]\n[curves]\nJaw = "jawOpen"')
    assert len(names.names) == 51
    assert names.names[:2] == ("Jaw", "eyeBlinkLeft")
    assert not {"jawOpen", "tongueOut"} & set(names.names)


def test_mirror_swaps_left_and_right() -> None:
    text = 'mirror = true\n[curves]\nL = "eyeBlinkLeft"\nJ = "jawRight"\nO = "jawOpen"\n'
    assert applied(text, eyeBlinkRight=0.7, jawLeft=0.2, jawOpen=0.1) == {"L": 0.7, "J": 0.2, "O": 0.1}


def test_renames() -> None:
    assert parsed('[curves]\nJaw = "jawOpen"\n"a b" = "mouthClose"').renames == {
        "jawOpen": "Jaw", "mouthClose": "a b",
    }  # fmt: skip
    assert parsed('[curves]\nA = "jawOpen"\nB = "jawOpen"').renames is None
    assert parsed("[curves.A]\nsum = {jawOpen = 2}").renames is None
    assert parsed('[curves.A]\nmax = ["jawOpen", "mouthClose"]').renames is None
    assert len(parsed("keep = true").renames or {}) == 52


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(HEADER + '[curves]\n"Käfer.Öffnen" = "jawOpen"', encoding="utf-8")
    assert NameMap.load(path).names == ("Käfer.Öffnen",)
    assert NameMap.load(path) == NameMap.load(str(path))
    assert hash(NameMap.load(path)) == hash(NameMap.load(path))


def test_the_documented_example_works(tmp_path: Path) -> None:
    example = DOCS.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    names = NameMap.parse(example.encode(), "docs")
    found = dict(zip(names.names, names.apply(unit(jawOpen=0.5, eyeBlinkLeft=0.7))[0], strict=True))
    assert found["Jaw"] == pytest.approx(-12.5)
    assert found["Wink"] == pytest.approx(70)
    assert found["Brows.Up"] == 0
    assert "tongueOut" not in found
    for preset in PRESETS:
        assert f"`{preset}`" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[curves]\nJaw = "jawOpn"', "curve 'Jaw': there is no unit 'jawOpn'; did you mean 'jawOpen'?"),
        ('[curves]\nJaw = "JawOpen"', "there is no unit 'JawOpen'; did you mean 'jawOpen'?"),
        ('[curves]\nJaw = "xyzzy"', "curve 'Jaw': there is no unit 'xyzzy'"),
        ("[curves]\nJaw = 3", "curve 'Jaw': the name of a unit or a table is wanted, not 3"),
        ("[curves.Jaw]\nscale = 3", "curve 'Jaw': exactly one of sum, max, min is wanted"),
        ('[curves.Jaw]\nsum = "jawOpen"\nmax = "jawOpen"', "exactly one of sum, max, min is wanted"),
        ('[curves.Jaw]\nsum = "jawOpen"\nscal = 3', "no setting 'scal'; did you mean 'scale'?"),
        ('[curves.Jaw]\nsum = {jawOpen = "x"}', "curve 'Jaw', sum, jawOpen: a number is wanted, not 'x'"),
        ("[curves.Jaw]\nsum = {jawOpen = inf}", "a number is wanted, not inf"),
        ("[curves.Jaw]\nsum = []", "curve 'Jaw', sum: a list of units or a table of weights is wanted"),
        ('[curves.Jaw]\nsum = ["jawOpen", "jawOpen"]', "a unit is named twice"),
        ('[curves.Jaw]\nsum = "jawOpen"\nclamp = [1]', "curve 'Jaw', clamp: [lowest, highest] is wanted"),
        ('[curves.Jaw]\nsum = "jawOpen"\nclamp = [1, 0]', "the lowest value is above the highest"),
        ('[curves.Jaw]\nsum = "jawOpen"\noffset = true', "curve 'Jaw', offset: a number is wanted, not True"),
        ('[curves]\n" " = "jawOpen"', "a name of printable letters is wanted"),
        ("[curvs]", "the map: there is no setting 'curvs'; did you mean 'curves'?"),
        ("", "names no curves; list them under [curves], or keep = true"),
        ('drop = ["jawOpen"]\n[curves]\na = "mouthClose"', "drop goes with keep = true"),
        ('keep = true\ndrop = ["jaw"]', "drop: there is no unit 'jaw'"),
        ('keep = "yes"', "keep: true or false is wanted, not 'yes'"),
        ('keep = true\n[curves]\njawOpen = "mouthClose"', "called 'jawOpen' like a unit that is kept"),
        ("[defaults]\nsum = 3", "[defaults]: there is no setting 'sum'"),
        ("curves = 3", "curves: a table is wanted, not 3"),
        ("[curves", "not a name map (TOML: "),
    ],
)
def test_faults_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed(text)
    assert str(caught.value).startswith("my.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_documents_that_are_no_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'its first line is to be format = "recon3d-names/1"'):
        NameMap.parse(b'[curves]\na = "jawOpen"', "x")
    with pytest.raises(InputError, match="no UTF-8 text"):
        NameMap.parse(b"\xff\xfe", "x")
    with pytest.raises(
        UsageError, match=r"there is no name map 'vrn'; choose unity, vrm, or name a TOML file"
    ):
        NameMap.load("vrn")
    with pytest.raises(InputError, match="is a folder"):
        NameMap.load(tmp_path)
