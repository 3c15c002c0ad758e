"""Heads of OBJ rigs: the open head written as one and read again, and rigs that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from obj_rigs import obj_text, short_name, write_rig
from scipy.spatial.transform import Rotation

from recon3d._unit_names import _spellings, unit_name
from recon3d.conventions import ARKIT_NAMES, JOINT_NAMES, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.head import HeadModel
from recon3d.head._obj import read_obj, read_obj_vertices
from recon3d.head.rig import build_rig

Array = npt.NDArray[Any]

#: Enough to tell which way a rig looks.
FEW = ("eyeBlinkLeft", "eyeBlinkRight", "jawOpen", "browInnerUp", "mouthSmileLeft", "mouthSmileRight")


def built(paths: tuple[Path, Path]) -> tuple[dict[str, Array], list[str]]:
    lines: list[str] = []
    return build_rig(*paths, say=lines.append), lines


@pytest.fixture(scope="module")
def whole(head: HeadModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Array], list[str]]:
    """The open head in centimetres, somewhere else, with ICT's names."""
    folder = tmp_path_factory.mktemp("rig")
    return built(write_rig(folder, head, naming=short_name, place=lambda p: 100 * p + (3.0, 150.0, -20.0)))


def test_the_open_head_comes_back(whole: tuple[dict[str, Array], list[str]], head: HeadModel) -> None:
    arrays, lines = whole
    assert np.abs(arrays["v_template"] - head.v_template.numpy()).max() < 2e-4, "its eyes define the place"
    assert np.abs(arrays["exprdirs"] - head.exprdirs.numpy()).max() < 1e-7
    np.testing.assert_array_equal(arrays["f"], head.faces.numpy())
    np.testing.assert_array_equal(arrays["f_uv"], head.faces_uv.numpy())
    np.testing.assert_allclose(arrays["uv"], head.uv.numpy(), atol=1e-6)
    assert len(lines) == 1 and "taken for centimetres (30.8 along its longest side)" in lines[0]


def test_it_is_a_head_model(whole: tuple[dict[str, Array], list[str]], head: HeadModel) -> None:
    rig = HeadModel(whole[0], name="rig", digest="0").requires_grad_(False)
    assert rig.speaks_arkit and rig.num_shape == 0 and rig.joint_names == JOINT_NAMES
    nobody, rest = torch.zeros(1, 0), head.rest_joints(torch.zeros(1, head.num_shape))
    assert float((rig.rest_joints(nobody) - rest).abs().max()) < 1e-3
    pose = torch.zeros(1, 5, 3)
    pose[0, 0] = torch.tensor([3.0, 0.3, -0.2])
    units = torch.rand(1, 52)
    turned = Rotation.from_rotvec(pose[0, 0].numpy()).as_matrix()
    joint = rig.rest_joints(nobody)[0, 0].numpy()
    wanted = (rig.unposed(nobody, units)[0].numpy() - joint) @ turned.T + joint
    np.testing.assert_allclose(rig(nobody, units, pose).vertices[0].numpy(), wanted, atol=1e-6)


def test_only_the_eyeballs_move_with_the_eye_joints(
    whole: tuple[dict[str, Array], list[str]], head: HeadModel
) -> None:
    arrays = whole[0]
    for joint, side in ((LEFT_EYE, "left"), (RIGHT_EYE, "right")):
        ball = head.regions[f"{side}_eyeball"]
        np.testing.assert_array_equal(arrays[f"region_{side}_eyeball"], ball)
        np.testing.assert_array_equal(arrays["weights"][:, joint], ball)
    others = ~head.regions["eyeballs"]
    np.testing.assert_array_equal(arrays["weights"][:, NECK], others)
    centre = arrays["J_regressor"][LEFT_EYE] @ arrays["v_template"]
    points = arrays["v_template"][head.regions["left_eyeball"]]
    assert np.ptp(np.linalg.norm(points - centre, axis=1)) < 1e-4, "the joint is the ball's centre"
    eyes = arrays["colors"][head.regions["eyeballs"]]
    assert eyes.max() > 0.9 and eyes.min() < 0.1, "white and pupil"


@pytest.mark.parametrize("scale", [1.0, 1000.0], ids=["metres", "millimetres"])
def test_other_units_of_length(head: HeadModel, tmp_path: Path, scale: float) -> None:
    arrays, lines = built(write_rig(tmp_path, head, units=FEW, place=lambda p: scale * p))
    assert np.abs(arrays["v_template"] - head.v_template.numpy()).max() < 2e-4
    jaw = ARKIT_NAMES.index("jawOpen")
    np.testing.assert_allclose(arrays["exprdirs"][:, :, jaw], head.exprdirs[:, :, jaw].numpy(), atol=2e-7)
    assert ("millimetres" in " ".join(lines)) == (scale == 1000)


def test_names_in_any_spelling(head: HeadModel, tmp_path: Path) -> None:
    spellings = {
        "eyeBlinkLeft": "EYEBLINK_L",
        "eyeBlinkRight": "blendShape1.eye-blink.right",
        "jawOpen": "JawOpen",
        "browInnerUp": "brow_inner_up",
        "mouthSmileLeft": "L_mouthSmile",
        "mouthSmileRight": "head-MouthSmileRight",
    }
    neutral, shapes = write_rig(tmp_path, head, units=FEW, naming=spellings.__getitem__)
    (shapes / "EYEBLINK_L.obj").rename(shapes / "EYEBLINK_L.OBJ")
    arrays, lines = built((neutral, shapes))
    present = np.abs(arrays["exprdirs"]).max((0, 1)) > 0
    assert [name for name, there in zip(ARKIT_NAMES, present, strict=True) if there] == sorted(
        FEW, key=ARKIT_NAMES.index
    )
    assert "units without a file, which will do nothing: eyeLookDownLeft, " in lines[0]
    assert lines[0].endswith("and 34 more") and len(lines) == 1


def test_halves_are_added(head: HeadModel, tmp_path: Path) -> None:
    neutral, shapes = write_rig(tmp_path, head, units=FEW)
    text = (shapes / "browInnerUp.obj").read_text().splitlines()
    rest = neutral.read_text().splitlines()
    for mark, side in (("L", 1), ("R", -1)):
        split = [
            moved if not moved.startswith("v ") or float(still.split()[1]) * side > 0 else still
            for moved, still in zip(text, rest, strict=False)
        ]
        (shapes / f"browInnerUp_{mark}.obj").write_text("\n".join(split))
    both = np.abs(head.v_template[:, 0].numpy()) > 1e-6
    (shapes / "browInnerUp.obj").unlink()
    arrays, lines = built((neutral, shapes))
    unit = ARKIT_NAMES.index("browInnerUp")
    np.testing.assert_allclose(
        arrays["exprdirs"][both, :, unit], head.exprdirs[:, :, unit].numpy()[both], atol=2e-7
    )
    (shapes / "browInnerUp_R.obj").unlink()
    half, lines = built((neutral, shapes))
    assert not half["exprdirs"][head.v_template[:, 0].numpy() < 0, :, unit].any()
    assert "only one half of browInnerUp is there: browInnerUp_L.obj" in lines[0]


def test_the_whole_unit_comes_before_its_halves(head: HeadModel, tmp_path: Path) -> None:
    neutral, shapes = write_rig(tmp_path, head, units=FEW)
    (shapes / "browInnerUp_L.obj").write_text("nobody reads this")
    (shapes / "old_jawOpen.obj").write_text("nor this")
    _, lines = built((neutral, shapes))
    assert lines[-1].endswith("files that stand for no unit, left out: browInnerUp_L.obj, old_jawOpen.obj")


def test_other_files_are_left_out_by_name(head: HeadModel, tmp_path: Path) -> None:
    neutral, shapes = write_rig(tmp_path, head, units=FEW)
    for name in ("identity000.obj", "PupilDilate_L.obj", "cheekRaiser_R.obj"):
        (shapes / name).write_text("nobody reads this")
    (shapes / "._jawOpen.obj").write_bytes(b"\x00\x05")
    (shapes / "jawOpen.txt").write_text("no mesh")
    (shapes / "neutral.obj").write_bytes(neutral.read_bytes())
    _, lines = built((shapes / "neutral.obj", shapes))
    assert lines[-1].endswith("left out: PupilDilate_L.obj, cheekRaiser_R.obj, identity000.obj")


def test_without_eyeballs_the_lids_tell(head: HeadModel, tmp_path: Path) -> None:
    arrays, lines = built(write_rig(tmp_path, head, units=FEW, keep=~head.regions["eyeballs"]))
    assert "no separate eyeballs found" in lines[1]
    assert not any(key.startswith("region_") for key in arrays)
    assert (arrays["weights"][:, NECK] == 1).all()
    eyes = (arrays["J_regressor"] @ arrays["v_template"])[[LEFT_EYE, RIGHT_EYE]]
    rest = head.rest_joints(torch.zeros(1, head.num_shape))[0, [LEFT_EYE, RIGHT_EYE]].numpy()
    assert np.abs(eyes - rest).max() < 0.012


def test_a_cornea_goes_with_its_eyeball_and_a_socket_does_not(head: HeadModel, tmp_path: Path) -> None:
    """As in ICT: the eye sockets are cups of their own, the irises parts of their own."""
    neutral, shapes = write_rig(tmp_path, head, units=FEW)
    centres = head.rest_joints(torch.zeros(1, head.num_shape))[0, [LEFT_EYE, RIGHT_EYE]].double().numpy()
    extra, faces, offset = [], [], head.num_vertices
    for centre in centres:
        for radius, low, high in ((0.0160, 0.0, 0.5), (0.0175, 1.0, np.pi)):  # iris, then socket
            rows, columns = 6, 12
            polar, turn = np.linspace(low, high, rows), 2 * np.pi * np.arange(columns) / columns
            ring = np.stack(
                [
                    np.outer(np.sin(polar), np.cos(turn)),
                    np.outer(np.sin(polar), np.sin(turn)),
                    np.outer(np.cos(polar), np.ones(columns)),
                ],
                -1,
            )
            extra.append(centre + radius * ring.reshape(-1, 3))
            grid = offset + np.arange(rows * columns).reshape(rows, columns)
            next_ = np.roll(grid, -1, 1)
            faces += np.stack([grid[:-1], next_[:-1], next_[1:], grid[1:]], -1).reshape(-1, 4).tolist()
            offset += rows * columns
    added = np.concatenate(extra)
    for path in (neutral, *shapes.iterdir()):
        lines = path.read_text().splitlines()
        last = max(k for k, line in enumerate(lines) if line.startswith("v "))
        lines[last + 1 : last + 1] = ["v {:.7f} {:.7f} {:.7f}".format(*point) for point in added]
        lines += ["f " + " ".join(str(v + 1) for v in face) for face in faces]
        path.write_text("\n".join(lines))
    arrays, _ = built((neutral, shapes))
    inside = arrays["region_left_eyeball"]
    np.testing.assert_array_equal(inside[: head.num_vertices], head.regions["left_eyeball"])
    iris, socket = slice(head.num_vertices, head.num_vertices + 72), slice(head.num_vertices + 72, None)
    assert inside[iris].all() and not inside[socket].any()
    assert "uv" not in arrays, "the added faces have no texture"


TURNS = {
    "+Y with -Z up": ([-90, 0, 0], r"looks along \+Y with -Z up"),
    "-Y with +Z up": ([90, 0, 0], r"looks along -Y with \+Z up"),
    "-Z": ([0, 180, 0], r"looks along -Z with \+Y up"),
    "+X": ([0, 90, 0], r"looks along \+X with \+Y up"),
    "upside down": ([0, 0, 180], r"looks along \+Z with -Y up"),
}


@pytest.mark.parametrize("case", TURNS)
def test_another_direction_is_told(head: HeadModel, tmp_path: Path, case: str) -> None:
    angles, message = TURNS[case]
    turn = Rotation.from_euler("xyz", angles, degrees=True)
    paths = write_rig(tmp_path, head, units=FEW, place=lambda p: 100 * turn.apply(p))
    with pytest.raises(InputError, match=message) as caught:
        built(paths)
    assert str(caught.value).startswith(f"{paths[0]}: ") and "\n" not in str(caught.value)


def test_a_slight_turn_is_none(head: HeadModel, tmp_path: Path) -> None:
    turn = Rotation.from_euler("xyz", [15, -10, 5], degrees=True)
    built(write_rig(tmp_path, head, units=FEW, place=turn.apply))


def test_too_few_units_to_tell(head: HeadModel, tmp_path: Path) -> None:
    _, lines = built(write_rig(tmp_path, head, units=["jawOpen"]))
    assert "too few units to tell which way it looks" in lines[1]


def test_left_and_right_the_wrong_way_round(head: HeadModel, tmp_path: Path) -> None:
    paths = write_rig(
        tmp_path,
        head,
        units=FEW,
        naming=lambda n: n.replace("Left", "_X").replace("Right", "_L"),
    )
    for path in list(paths[1].iterdir()):
        path.rename(path.with_name(path.name.replace("_X", "_R")))
    with pytest.raises(
        InputError, match=r"looks along -Z with \+Y up, unless left and right are named the wrong"
    ):
        built(paths)


# ---- rigs that are none ----


def test_bad_folders(head: HeadModel, tmp_path: Path) -> None:
    neutral, shapes = write_rig(tmp_path, head, units=())
    expected = {
        shapes: "no OBJ file in it is named after an ARKit unit, such as jawOpen.obj",
        tmp_path / "missing": "no such file",
        neutral: "is a file; the folder of the shapes is wanted",
    }
    for folder, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            built((neutral, folder))
        assert str(caught.value).startswith(f"{folder}: ")


def test_two_files_of_one_unit(head: HeadModel, tmp_path: Path) -> None:
    neutral, shapes = write_rig(tmp_path, head, units=FEW)
    (shapes / "JawOpen.obj").write_bytes((shapes / "jawOpen.obj").read_bytes())
    with pytest.raises(
        InputError, match=r"JawOpen\.obj and jawOpen\.obj are both named after jawOpen; keep one"
    ):
        built((neutral, shapes))


def test_a_shape_of_another_mesh(head: HeadModel, tmp_path: Path) -> None:
    neutral, shapes = write_rig(tmp_path, head, units=FEW)
    text = (shapes / "jawOpen.obj").read_text()
    cases = {
        text.replace("v ", "# ", 1): r"jawOpen\.obj: has 5267 vertices, the neutral neutral\.obj has 5268",
        obj_text(head.v_template.numpy()[::-1]): r"jawOpen\.obj: moves the whole mesh",
        text.replace("v ", "v 9", 1).replace("v 9-", "v -9", 1): None,
        text.replace("v 0", "v nan", 1): r"jawOpen\.obj: line \d+: 3 finite numbers are wanted",
    }
    for changed, message in cases.items():
        (shapes / "jawOpen.obj").write_text(changed)
        if message is None:
            built((neutral, shapes))  # one stray vertex is the artist's business
            continue
        with pytest.raises(InputError, match=message):
            built((neutral, shapes))


def test_no_heads_size(head: HeadModel, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is 3\.08 long along its longest side, which is a head in none of metres"
    ):
        built(write_rig(tmp_path, head, units=FEW, place=lambda p: 10 * p))


CUBE = "\n".join(f"v {x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1)) + "\n"


def test_quads_and_polygons_are_cut_into_fans(tmp_path: Path) -> None:
    path = tmp_path / "cube.obj"
    path.write_text(
        CUBE + "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1/1 2/2/1 4/3/1 3/4/1\nf 5/1 6/2 8/3 7/4 1/1\n"
    )
    mesh = read_obj(path)
    assert mesh.faces.tolist() == [[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6], [4, 6, 0]]
    assert mesh.faces_uv is not None and mesh.faces_uv.tolist()[:2] == [[0, 1, 2], [0, 2, 3]]
    assert mesh.uv is not None and mesh.uv.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]


def test_other_ways_to_write_the_same(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain.obj", tmp_path / "odd.obj"
    plain.write_text(CUBE + "f 1 2 4\nf 3 7 8\n")
    vertices = CUBE.replace("v ", "  v\t").splitlines()
    vertices[0] += " 1.0 0.5 0.5 0.5"  # a weight and a colour
    text = [
        "o head",
        "mtllib a.mtl",
        *vertices[:4],
        "f -4//1 -3//1 -1//1 # relative",
        "usemtl skin",
        *vertices[4:],
    ]
    text += ["l 1 2", "f 3//2 \\", "7//2 8//2"]
    odd.write_bytes("\r\n".join(text).encode())
    assert read_obj(odd).faces.tolist() == read_obj(plain).faces.tolist()
    np.testing.assert_array_equal(read_obj_vertices(odd), read_obj(plain).vertices)


BAD = {
    "empty": (b"", "is empty"),
    "binary": (bytes(range(256)) * 8, r"not an OBJ file \(it has no vertices\)"),
    "no faces": (CUBE.encode(), "holds no faces"),
    "short vertex": (CUBE.encode() + b"v 1 2\nf 1 2 3\n", "line 9: 3 finite numbers are wanted"),
    "words": (CUBE.encode() + b"v 1 two 3\nf 1 2 3\n", "line 9: 3 finite numbers are wanted"),
    "infinite": (CUBE.encode() + b"v 1 1e999 3\nf 1 2 3\n", "line 9: 3 finite numbers are wanted"),
    "index": (CUBE.encode() + b"f 1 2 9\n", "line 9: a face names number 9 of 8"),
    "zero": (CUBE.encode() + b"f 0 1 2\n", "line 9: a face names number 0 of 8"),
    "behind": (CUBE.encode() + b"f -9 1 2\n", "line 9: a face names number -9 of 8"),
    "no number": (CUBE.encode() + b"f a b c\n", "line 9: a corner of a face is no number"),
    "edge": (CUBE.encode() + b"f 1 2\n", "line 9: a face has fewer than three corners"),
    "texture": (CUBE.encode() + b"vt 0 0\nf 1/1 2/2 3/1\n", "line 10: a face names number 2 of 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_obj_files_are_one_line(tmp_path: Path, case: str) -> None:
    data, message = BAD[case]
    (tmp_path / "bad.obj").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_obj(tmp_path / "bad.obj")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.obj'}: ") and "\n" not in str(caught.value)


def test_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.obj").write_text(CUBE + "f 1 2 3\n")
    monkeypatch.setattr("recon3d.head._obj.MAX_VERTICES", 7)
    with pytest.raises(InputError, match="has 8 v lines, 7 are allowed"):
        read_obj(tmp_path / "a.obj")
    monkeypatch.setattr("recon3d.head._obj.MAX_BYTES", 20)
    with pytest.raises(InputError, match="too large for an OBJ file"):
        read_obj_vertices(tmp_path / "a.obj")


# ---- names ----


def test_every_spelling_means_one_unit() -> None:
    sided = [name for name in ARKIT_NAMES if name.endswith(("Left", "Right"))]
    central = [name for name in ARKIT_NAMES if name not in sided]
    assert len(_spellings()) == 4 * len(sided) + 9 * len(central), "no spelling is taken twice"
    for unit, name in enumerate(ARKIT_NAMES):
        assert unit_name(name) == (unit, "", 0)
        assert unit_name(short_name(name)) == (unit, "", 0)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("mouthShrugUpper_R", ("mouthShrugUpper", "Right", 0)),
        ("CheekPuffLeft", ("cheekPuff", "Left", 0)),
        ("jaw_left", ("jawLeft", "", 0)),
        ("face:r_eye_look_in", ("eyeLookInRight", "", 1)),
    ],
)
def test_spellings(text: str, meant: tuple[str, str, int]) -> None:
    assert unit_name(text) == (ARKIT_NAMES.index(meant[0]), *meant[1:])


@pytest.mark.parametrize(
    "text", ["_neutral", "", "identity001", "PupilDilate_L", "jawOpener", "eyeBlink", "L"]
)
def test_no_units_name(text: str) -> None:
    assert unit_name(text) is None
