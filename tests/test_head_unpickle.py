"""The restricted unpickler: it reads what FLAME's files hold, and nothing else does anything."""

from __future__ import annotations

import base64
import gc
import io
import os
import pickle
import random
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flame_files import Python2Pickle, write_flame_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from recon3d.errors import InputError
from recon3d.head import _unpickle
from recon3d.head._pickle_machine import _STEPS, MAX_STEPS
from recon3d.head._unpickle import Unreadable, loads, numbers, read_npy, read_npz, read_pickle

FLAME = Path(__file__).resolve().parents[2] / "shared" / "data" / "flame"
needs_flame = pytest.mark.skipif(not FLAME.is_dir(), reason="the shared FLAME files are not here")

_watched: list[str] | None = None


def _note(event: str, _: tuple[Any, ...]) -> None:
    if _watched is not None:
        _watched.append(event)


sys.addaudithook(_note)  # can never be removed; costs next to nothing while nothing is watched


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Fail if anything is imported, opened, compiled, executed or unpickled by Python meanwhile."""
    global _watched
    events: list[str] = []
    gc.disable()  # what other tests left behind may open files when it is collected
    _watched = events
    try:
        yield
    finally:
        _watched = None
        gc.enable()
    assert not events, ", ".join(events)


for _codec in ("latin1", "raw_unicode_escape", "unicode_escape", "utf-8"):
    "x".encode(_codec).decode(_codec)  # Python imports a codec at its first use


def test_the_watch_itself(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"pickle\.find_class"), nothing_happens():
        pickle.loads(b"cos\nsystem\n.")


def small(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    regressor = np.zeros((2, 30))
    regressor[0, 3:7], regressor[1, 20] = 0.25, 1
    return {
        "v_template": rng.normal(size=(30, 3)),
        "f": rng.integers(0, 30, (20, 3), dtype=np.uint32),
        "shapedirs": np.asfortranarray(rng.normal(size=(30, 3, 4))),
        "J_regressor": regressor,
        "weights": rng.normal(size=(30, 2)),
        "kintree_table": np.array([[-1, 0], [0, 1]]),
        "told": {"n_expr": 100, "from": "tests"},
    }


def stream(tmp_path: Path) -> bytes:
    return write_flame_pickle(tmp_path / "small.pkl", small()).read_bytes()


def refusal(data: bytes) -> str:
    """Read it, with nothing happening and little memory taken; return why it was refused."""
    tracemalloc.start()
    try:
        with nothing_happens(), pytest.raises(Unreadable) as caught:
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- What is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chumpy", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_python_2_pickle_comes_back_as_written(tmp_path: Path, chumpy: bool, sparse: bool) -> None:
    arrays = small()
    path = write_flame_pickle(tmp_path / "small.pkl", arrays, chumpy=chumpy, sparse=sparse)
    data = path.read_bytes()
    with nothing_happens():
        loads(data)
    stored = read_pickle(path)
    assert set(stored) == {*arrays, "bs_style", "bs_type"}
    for key in ("v_template", "shapedirs", "weights", "J_regressor"):
        np.testing.assert_array_equal(numbers(stored[key]), arrays[key], strict=True)
    np.testing.assert_array_equal(numbers(stored["f"]), arrays["f"], strict=True)
    assert numbers(stored["kintree_table"])[0, 0] == 0xFFFFFFFF
    assert stored["bs_style"] == b"lbs"
    assert stored["told"] == {"n_expr": 100, "from": b"tests"}


def test_the_written_pickle_is_one_to_python_too(tmp_path: Path) -> None:
    """What this file's tests build on: Python's own unpickler reads the same."""

    class Ch:
        x: np.ndarray

    class Stubbed(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return Ch if (module, name) == ("chumpy.ch", "Ch") else super().find_class(module, name)

    arrays = small()
    path = write_flame_pickle(tmp_path / "small.pkl", arrays)
    read = Stubbed(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    for key in ("v_template", "shapedirs", "weights"):
        np.testing.assert_array_equal(read[key].x, arrays[key])
    np.testing.assert_array_equal(read["J_regressor"].toarray(), arrays["J_regressor"])
    np.testing.assert_array_equal(read["f"], arrays["f"])


#: Written by Python 2.7.18 with numpy 1.16.6, scipy 1.2.3 and chumpy 0.67.6, by protocol; zlib, base64.
#: ``a`` being ``Ch(np.arange(6.0).reshape(2, 3))``: v = a, part = a[:, :2], J = csc_matrix([[0, 2], [1, 0],
#: [0, 3]]), f = np.array([[7, 8]], np.uint32), style = "lbs".
FROM_PYTHON_2 = {
    0: (
        "eNqtVE2PmzAUvL8/Yi6N8AcJkSp1pZ7SQw7lWgmBcQhtApZttuHf99lAm91syKrtwQh4Y8+8GdtRpSlkRBfGEdAMpOz0kBtVAz5k"
        "11pneuk6A5pDJOWxP+thZVRnKmWatoZMnZR0oAXIPC/75uSaNs+hK7+H3wns3Ve9hqjSG6QpCNRX68gjfD6CTqEecVuPozEC83Px"
        "Q+UWZVmFuiiFXRyDxULVGDfkz1jw/9lLWquQkyJDdMLlqAgzGmc8FCnCfKVVW9m8a/1rWCTIo5sADryVakfadKa9EJDtqLkzanXu"
        "kbAwphhe2IQzsIURCG01AjSLIdrF4DJSEkBZjOK3Hwx2HNwEr9ygFYIZRBk5pASZAVEej/0gMCMfCez3+90HNMMPXLL08jLy7RLH"
        "fzcO8aclwNNCMV0o0qWZVDyhD6V327rC9T4DJrCNVv30rwnY0t5sAbYes6gx8/p3xGzj//ho6zFGlt7GyLZzjNqogzJGVbk9FtrX"
        "eDwGwcBpTj2mqS5eEfc0mGb9Oj7Op/gEuHqMq7mOi4v/EBd9UOcP6mKpHtyv0fJ69tq64RTcSFDeqQz9r70ZX6YDa2WDe38MY4Vf"
        "gANNdqa5IHQzH2Ce+gz4Fldp2qqRyq8k4jtOivkg8D9OiisnBXuHk4+cYjedZ6QqXOGF8XvCxLUwDo9i+6dTNGk6FxeNN6q/hUUC"
        "u2S87eZtKtZBTdimItxU6K8OF5tI73WxveoCvbzbBV3aXEGeF3ggd3iSeOKhQd+UZH+dZELfkeTmtTVvJPeMIrZgV78Aahfh1w=="
    ),
    1: (
        "eNp9U11v0zAUXZqs7bxCCxusfI9vM6CUiQcekJjEE4vUB5AfkZUPdw60Sa7tjPah/5l/ADdOImglaim+jnPvueccOytwKPPyQBlo"
        "RVGWL7kSFwSnKEu1UUVkMkXApVEki3m+HCmRqVioJL0gX8VMRIaAF3EeFsnMJCnnJAu/293difkC7RV0KHMC+RcgkuSTJNCVNmFv"
        "BYSyHp8HPwTXSEML2P88HhO2z+NEmSW/xD3orbXQAvGv0G9Yf5V5PDEK+hM24LHIRRprnqXlUsNgBdcQx2LHIkXo6xbaWURpxSVT"
        "YjQvEDZQKliuySZwQKs0ksbVZzik/o5hToiNb1DfoX7Ld02dFJtlLgjcpKw1fe/v+A4mHVHfZc6HyWRy/huHnRAhtCzGO2vj18d6"
        "cVaFbh0HdTw8MyHrcG0CU2gYMjcVP+FWEW6Yd7vElj1Z2XNH9icSbbi7bsM9S6CfKzEVSomYaxnkAu6XgloGHjAviRcajuUBlf9o"
        "fmg1e0aWIpNG5KNtIo8beU4d3Tp6dTShHMpSxq42y5mAx8ydhRqeMOe8vDQ6SvCcKm0jfCP4oBKjkgWBp9UderaC55R1kjROIqGB"
        "brB+YVm7Net3NeuTbax7DduWZci8ODABvNwAftUAH9mi4f/OEQG682CR409j4LV/ytq13yOsRr9ZG6nneInfbDQYNw1OKlaNj65l"
        "hZ45042Kt7bCQVCrtmjUnm5T2+2UNCulzqXcK0Z/APK9LQA="
    ),
    2: (
        "eNp1kktv00AUhTO2m4RpSlNoS3m2vF0eoUIsWCBRiV0tZVE0SzTyY8JYJI7vzLgki0iwSJD/Lf8ArmNbyEixZN+x5/joO3fuD2sB"
        "xGVO6isDVhjKbJLOB0pMVSRUnHyln8VYhIaCffoTnAVsuYz4tSyU9JOk0MatzgK6Luvxif9NcI1uWsC1nG3zKFZmzq/wA9CQ8yCL"
        "xyZOOKdaoOv2l+Ul9JjDY6NgZ8j6PBKpSCLNp0mx1HB9Abtos/aNRIK2/ZyRWZiUBFMlBpMMLX2l/DnlSoTTRBuVFcx7pYomUbkL"
        "N7zWkpHg1yXcdD3iWZ69qiSRmaeCwj6zRu+9lkdQcuB6NiMfhsPhxR+81g+vZYKcnbUa1++P1eK8LN2q9qu6f24C1uHa+CbTcMjs"
        "RHyHW1nwX7uOcknluiG35c5QYvA7zeB3c7abKjESSomIa+mnAu5hCGsF95kTRzMND+Se/BfyuAjpLCWmiutUJxtTndR5SFXtqjpV"
        "NYE8lAX3ljbzsYCHzB4HGh4xchHqMMbjKJMM8I3ijexGxTMKj3FAnizgqcs6cRLFodDwrAH6vAC1S9B3Fai7EbRXA1prKOZEvvHh"
        "tOH4onI8yNnRplPCX7sTf5binBt46b1l7aqprzwbm8raCJviXL5uOA8qZxdB6m7ZaxDsDBk1tG8KLc7ZqkiW1cnONibrdgqwMhW5"
        "kp1s8BeOkhOd"
    ),
}


@pytest.mark.parametrize("protocol", FROM_PYTHON_2)
def test_files_of_the_real_python_2_numpy_scipy_and_chumpy(protocol: int) -> None:
    data = zlib.decompress(base64.b64decode(FROM_PYTHON_2[protocol]))
    with nothing_happens():
        stored = loads(data)
    assert isinstance(stored, dict)
    np.testing.assert_array_equal(numbers(stored["v"]), np.arange(6.0).reshape(2, 3), strict=True)
    np.testing.assert_array_equal(numbers(stored["part"]), [[0, 1], [3, 4]])
    np.testing.assert_array_equal(numbers(stored["J"]), [[0, 2], [1, 0], [0, 3]])
    np.testing.assert_array_equal(numbers(stored["f"]), np.array([[7, 8]], np.uint32), strict=True)
    assert stored["style"] == b"lbs"


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_python_3(protocol: int) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "c": rng.normal(size=(5, 3)),
        "fortran": np.asfortranarray(rng.normal(size=(5, 3, 2))),
        "big": np.arange(6).astype(">u2"),
        "empty": np.zeros((0, 3), np.float32),
        "bool": np.array([True, False]),
        "half": np.ones(3, np.float16),
        "scalar": np.float32(1.5),
        "int": 7,
    }
    stored = loads(pickle.dumps(arrays, protocol))
    assert isinstance(stored, dict)
    for key, value in arrays.items():
        np.testing.assert_array_equal(numbers(stored[key]), value)


@pytest.mark.parametrize("form", ["csc", "csr", "coo"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_sparse_matrices_of_scipy(form: str, kind: str, protocol: int) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.where(np.random.default_rng(2).random((4, 9)) > 0.7, 2.5, 0)
    stored = loads(pickle.dumps(getattr(sparse, f"{form}_{kind}")(dense), protocol))
    np.testing.assert_array_equal(numbers(stored), dense)


def test_a_selection_of_a_chumpy_array() -> None:
    """As MANO has it: some columns of a larger basis."""
    writer, basis = Python2Pickle(), np.arange(24.0).reshape(2, 3, 4)
    writer.name("chumpy.reordering", "Select")
    writer.parts.append(b")\x81")
    writer.begin_dict()
    writer.string("a")
    writer.chumpy(basis)
    writer.string("idxs")
    writer.array(np.arange(24).reshape(2, 3, 4)[..., :2].ravel())
    writer.string("preferred_shape")
    writer.integers((2, 3, 2))
    writer.end_dict()
    stored = loads(b"".join([b"\x80\x02", *writer.parts, b"b."]))
    np.testing.assert_array_equal(numbers(stored), basis[..., :2])


@needs_flame
def test_region_masks_as_shipped() -> None:
    stored = read_pickle(FLAME / "FLAME_masks.pkl")
    assert {key: numbers(stored[key]).shape for key in ("face", "scalp", "left_ear")} == {
        "face": (1787,), "scalp": (489,), "left_ear": (588,),
    }  # fmt: skip
    assert all(numbers(mask).min() >= 0 and numbers(mask).max() < 5023 for mask in stored.values())


@needs_flame
def test_landmarks_as_shipped_torch_tensors_included() -> None:
    stored = read_npy(FLAME / "landmark_embedding.npy")
    assert isinstance(stored, dict)
    shapes = {"static": (51,), "dynamic": (79, 17), "full": (1, 68)}
    for name, shape in shapes.items():
        triangles, corners = (numbers(stored[f"{name}_lmk_{key}"]) for key in ("faces_idx", "bary_coords"))
        assert triangles.shape == shape
        assert triangles.dtype.kind == "i"
        assert 0 <= triangles.min() < triangles.max() < 9976
        np.testing.assert_allclose(corners.sum(-1), 1, atol=1e-4)
    assert read_npy(FLAME / "l_eyelid.npy").shape == (5023, 3)  # type: ignore[union-attr]


# --- What is refused ---------------------------------------------------------------------------------------


class Runs:
    """Pickled, it is a call of whatever is wanted."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def string(value: bytes) -> bytes:
    return b"U%c" % len(value) + value


def calling(module: bytes, name: bytes, argument: bytes) -> bytes:
    return b"\x80\x02c" + module + b"\n" + name + b"\n" + string(argument) + b"\x85R."


CALLS = [
    (b"os", b"system"), (b"posix", b"system"), (b"nt", b"system"), (b"builtins", b"eval"),
    (b"__builtin__", b"eval"), (b"__builtin__", b"execfile"), (b"builtins", b"__import__"),
    (b"builtins", b"getattr"), (b"builtins", b"open"), (b"builtins", b"type"), (b"subprocess", b"Popen"),
    (b"pickle", b"loads"), (b"_pickle", b"loads"), (b"marshal", b"loads"), (b"importlib", b"import_module"),
    (b"shutil", b"rmtree"), (b"numpy", b"load"), (b"numpy", b"fromfile"),
    (b"numpy.core.multiarray", b"fromfile"), (b"numpy.testing._private.utils", b"runstring"),
    (b"numpy", b"os.system"), (b"torch", b"load"), (b"torch.serialization", b"load"), (b"joblib", b"load"),
    (b"runpy", b"run_path"), (b"operator", b"attrgetter"), (b"functools", b"partial"),
    (b"webbrowser", b"open"), (b"copyreg", b"__reduce_ex__"), (b"chumpyx", b"run"),
    (b"scipy.sparse.os", b"system"), (b"", b"os.system"), (b"chumpy", b"os system"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_calls_are_refused_by_their_name(tmp_path: Path, module: bytes, name: bytes) -> None:
    canary = tmp_path / "canary"
    asked = (module + b"." + name).decode()
    text = refusal(calling(module, name, f"touch {canary}".encode()))
    assert text == f"asks for {asked}, which no head model needs; nothing of the file was run"
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_would_run_does_not_run(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    command = f"touch {canary}"
    data = pickle.dumps({"v_template": Runs(os.system, command)}, protocol)
    assert refusal(data).startswith("asks for posix.system" if os.name == "posix" else "asks for nt.system")
    assert not canary.exists()
    pickle.loads(data)  # the test itself: Python's unpickler does run it
    assert canary.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
FLOATS = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array(
    shape: bytes, kind: bytes = FLOATS, raw: bytes = b"U\x08" + bytes(8), flag: bytes = b"\x89"
) -> bytes:
    """Return an array's opcodes, with parts to be chosen wrong."""
    return b"\x80\x02" + ARRAY + b"(K\x01" + shape + kind + flag + raw + b"tb."


def kind(code: bytes, state: bytes = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb") -> bytes:
    return b"cnumpy\ndtype\n" + string(code) + b"K\x00K\x01\x87R" + state


LAUGHS = b"\x80\x02]" + b"q\x00" + b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(100))

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it ends too early"),
    "truncated": (b"\x80\x02}q\x01(U\x05abc", "it ends too early"),
    "garbage": (b"\x80\x02\xff\xfe\xfd", "no pickle from byte 2 on"),
    "zeros": (bytes(1000), "no pickle from byte 0 on"),
    "stop on an empty stack": (b"\x80\x02.", "no pickle"),
    "unknown protocol": (b"\x80\x06N.", "unknown version"),
    "old-style instance": (b"(S'touch canary'\nios\nsystem\n.", "old-style instances"),
    "old-style object": (b"(cchumpy.ch\nCh\nU\x01xo.", "old-style instances"),
    "instance with keywords": (b"\x80\x04cchumpy.ch\nCh\n)}\x92.", "named arguments"),
    "instance with arguments": (b"\x80\x02cchumpy.ch\nCh\nU\x01x\x85\x81.", "an instance with arguments"),
    "instance of a function": (b"\x80\x02c_codecs\nencode\n)\x81.", "an instance of no class"),
    "instance of a text": (b"\x80\x02U\x09os.system)\x81.", "an instance of no class"),
    "extension code": (b"\x80\x02\x82\x01.", "extension registry"),
    "wide extension code": (b"\x80\x02\x84\x01\x00\x00\x00.", "extension registry"),
    "persistent id": (b"Pos.system\n.", "persistent ids"),
    "binary persistent id": (b"\x80\x02U\x01xQ.", "persistent ids"),
    "outside buffer": (b"\x80\x05\x97.", "buffers from outside"),
    "read-only buffer": (b"\x80\x05N\x98.", "buffers from outside"),
    "storage type outside a tensor": (b"\x80\x02ctorch\nFloatStorage\n.", "asks for torch.FloatStorage"),
    "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x0ecore.os.system\x93.", "asks for numpy.core.os.system"),
    "name that is no text": (b"\x80\x04]]\x93.", "something else where a name should be"),
    "name of a control sequence": (b"cos\n\x1b[2Jsystem\n.", r"asks for os.\x1b[2Jsystem"),
    "endless name": (b"c" + b"a" * 100_000 + b"\nb\n.", "it ends too early"),
    "endless name of many parts": (
        b"\x80\x04X\x00\x00\x10\x00" + b"a" * (1 << 20) + b"\x8c\x01b\x93.",
        "a name should",
    ),
    "call of a chumpy class": (b"\x80\x02cchumpy.ch\nCh\nU\x02id\x85R.", "calls what no head model needs"),
    "call of chumpy's depths": (
        b"\x80\x02cchumpy.ch\nCh.__init__.__globals__\n)R.",
        "calls what no head model",
    ),
    "call of an array": (b"\x80\x02" + ARRAY + b")R.", "calls what no head model needs"),
    "call of a call": (b"\x80\x02" + ARRAY[:-1] + b"RU\x02id\x85RR.", "calls what no head model needs"),
    "call of a text": (b"\x80\x02U\x09os.systemU\x02id\x85R.", "calls what no head model needs"),
    "call without arguments": (b"\x80\x02cnumpy\ndtype\n]R.", "calls what no head model needs"),
    "call with wrong arguments": (b"\x80\x02cnumpy\ndtype\n)R.", "no pickle from byte"),
    "array of another class": (ARRAY.replace(b"numpy\nndarray", b"chumpy.ch\nCh") + b".", "an unknown class"),
    "array of 10^9": (array(b"J\x00\xca\x9a\x3b\x85"), "does not have the size it claims"),
    "array of 10^18": (array(b"\x8a\x08" + struct.pack("<q", 10**18) + b"\x85"), "an impossible shape"),
    "array of a negative size": (array(b"J\xff\xff\xff\xff\x85"), "an impossible shape"),
    "array of many dimensions": (array(b"(" + b"K\x01" * 9 + b"t"), "without a shape"),
    "array whose sizes overflow": (
        array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87"),
        "size it claims",
    ),
    "array of a float's size": (array(b"G?\xf0\x00\x00\x00\x00\x00\x00\x85"), "an impossible shape"),
    "array of too few bytes": (array(b"K\x02\x85"), "does not have the size it claims"),
    "array of too many bytes": (array(b")", raw=b"U\x09" + bytes(9)), "does not have the size it claims"),
    "array without bytes": (array(b")", raw=b"N"), "without its bytes"),
    "array of a text": (array(b")", raw=b"X\x08\x00\x00\x00" + bytes(8)), "without its bytes"),
    "array without type": (array(b")", kind=b"N"), "does not tell what numbers"),
    "array of an unbuilt type": (array(b"K\x02\x85", kind=kind(b"f8", b"")), "does not have the size"),
    "array with two states": (array(b")")[:-1] + array(b")")[2 + len(ARRAY) :], "without its state"),
    "array with a wrong state": (b"\x80\x02" + ARRAY + b"K\x01\x85b.", "without its state"),
    "objects as bytes": (array(b")", kind=kind(b"O8")), "does not have the size it claims"),
    "complex numbers": (array(b")", kind=kind(b"c16")), "neither numbers nor text"),
    "long doubles": (array(b")", kind=kind(b"f16")), "neither numbers nor text"),
    "raw memory": (array(b")", kind=kind(b"V8")), "neither numbers nor text"),
    "dates": (array(b")", kind=kind(b"M8")), "neither numbers nor text"),
    "texts of no length": (
        array(b"J\x00\xca\x9a\x3b\x85", kind=kind(b"S0"), raw=b"U\x00"),
        "neither numbers nor text",
    ),
    "texts of any length": (array(b")", kind=kind(b"S99999999999")), "neither numbers nor text"),
    "a type that is a program": (array(b")", kind=kind(b"f8,O,(2,)f8")), "neither numbers nor text"),
    "an unknown byte order": (array(b")", kind=kind(b"f8", b"(K\x03U\x01!NNNK\x08K\x08K\x00tb")), "type !f8"),
    "records": (
        array(b")", kind=kind(b"f8", b"(K\x03U\x01<NU\x01a\x85}K\x08K\x08K\x00tb")),
        "an array of records",
    ),
    "sub-arrays": (
        array(b")", kind=kind(b"f8", b"(K\x03U\x01<" + FLOATS + b"NNK\x08K\x08K\x00tb")),
        "of records",
    ),
    "metadata": (
        array(b")", kind=kind(b"f8", b"(K\x04U\x01<NNNK\x08K\x08K\x00}U\x01aNst" + b"b")),
        "of records",
    ),
    "two byte orders": (array(b")", kind=FLOATS + FLOATS[FLOATS.index(b"(K\x03") :]), "without its state"),
    "state of a list": (b"\x80\x02]}b.", "a state for what takes none"),
    "state of a name": (b"\x80\x02cchumpy.ch\nCh\n}b.", "a state for what takes none"),
    "state with slots": (
        b"\x80\x02cchumpy.ch\nCh\n)\x81N}U\x09__class__Ns\x86b.",
        "a state for what takes none",
    ),
    "second state": (b"\x80\x02cchumpy.ch\nCh\n)\x81}b}b.", "a state for what takes none"),
    "list filled as a dictionary": (b"\x80\x02](U\x01aNu.", "entries for what is no dictionary"),
    "dictionary filled as a list": (b"\x80\x02}Na.", "items for what is no list"),
    "key without value": (b"\x80\x02}(U\x01au.", "entries for what is no dictionary"),
    "key that is a list": (b"\x80\x02}]Ns.", "something else where a name should be"),
    "key that is a tuple": (b"\x80\x02}N\x85Ns.", "something else where a name should be"),
    "key of a great number": (
        b"\x80\x02}\x8a\x09" + b"\xff" * 8 + b"\x01Ns.",
        "something else where a name should be",
    ),
    "text of 2^63": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"a", "it ends too early"),
    "bytes of 2^40": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a", "it ends too early"),
    "bytearray of 2^40": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a", "it ends too early"),
    "frame of 2^60": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "it ends too early"),
    "string of a negative length": (b"\x80\x02T\xff\xff\xff\xffabc.", "it ends too early"),
    "integer of a gigabyte": (b"\x80\x02\x8b\xff\xff\xff\x3fabc.", "it ends too early"),
    "integer of many bytes": (b"\x80\x02\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20) + b".", "many digits"),
    "integer of a negative length": (b"\x80\x02\x8b\xff\xff\xff\xff.", "it ends too early"),
    "integer of many digits": (b"I" + b"9" * 200 + b"\n.", "an integer that is none"),
    "long of very many digits": (b"L" + b"9" * 1_000_000 + b"L\n.", "it ends too early"),
    "integer that is none": (b"I__import__('os')\n.", "an integer that is none"),
    "number that is none": (b"Fos.system\n.", "no pickle from byte 0 on"),
    "string without quotes": (b"Sos.system\n.", "a string without quotes"),
    "string of half an escape": (b"S'\\x1'\n.", "no pickle from byte 0 on"),
    "text that is none": (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "no pickle"),
    "memo that is empty": (b"\x80\x02h\x05.", "no pickle"),
    "row that never began": (b"\x80\x02Nt.", "no pickle"),
    "values below a row": (b"\x80\x02NN(\x86.", "values are missing"),
    "memo of a great number": (b"Np" + b"2305843009213693951000\n.", "a memo of an impossible number"),
    "memo of a negative number": (b"Np-1\n.", "a memo of an impossible number"),
    "call with many arguments": (
        b"\x80\x02cnumpy\ndtype\n(U\x02f8" + b"N" * 9000 + b"tR.",
        "calls what no head",
    ),
    "far memo": (b"\x80\x02Nr\xff\xff\xff\xff0" * 10 + b"r\xff\xff\xff\xff", "no pickle"),
    "flood of sets": (b"\x80\x04" + b"\x8f" * (MAX_STEPS + 5), "far more parts than a head model has"),
    "flood of rows": (b"\x80\x04" + b"(" * (MAX_STEPS + 5), "far more parts than a head model has"),
    "flood of duplicates": (b"\x80\x02N" + b"2" * (MAX_STEPS + 5), "far more parts than a head model has"),
    "bytes encoded over and over": (
        b"\x80\x02X\x00\x00\x10\x00"
        + b"a" * (1 << 20)
        + b"q\x00"
        + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 100
        + b".",
        "unpacks to more than it holds",
    ),
    "another encoding": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x05rot13\x86R.", "unknown encoding"),
    "bytes that are encoded": (b"\x80\x02c_codecs\nencode\nU\x01aU\x06latin1\x86R.", "unknown encoding"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_pickles_are_refused(case: str) -> None:
    data, why = REFUSED[case]
    assert why in refusal(data)


HARMLESS: dict[str, bytes] = {
    "a hundred levels of ten times the last": LAUGHS + b".",
    "tuples in tuples": b"\x80\x02N" + b"\x85" * (MAX_STEPS - 10) + b".",
    "lists in lists": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "instances in instances": b"\x80\x02"
    + b"cchumpy.ch\nCh\n)\x81}U\x01x" * 5000
    + b"N"
    + b"sb" * 5000
    + b".",
    "list in itself": b"\x80\x02]q\x00h\x00a.",
    "dictionary in itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "array of objects in itself": b"\x80\x02"
    + ARRAY
    + b"q\x00(K\x01K\x01\x85"
    + kind(b"O8")
    + b"\x89]h\x00atb.",
    "set in a set": b"\x80\x02c__builtin__\nset\nq\x00]q\x01h\x01a\x85R.",
    "many sets of one list": b"\x80\x02]("
    + b"N" * 10_000
    + b"eq\x00"
    + b"c__builtin__\nset\nh\x00\x85R0" * 5000
    + b"N.",
    "state of methods": (
        b"\x80\x02cchumpy.ch\nCh\n)\x81}(U\x0c__setstate__c__builtin__\nobject\nU\x09__class__Nub."
    ),
    "integers alike in their lower half": b"\x80\x02}("
    + b"".join(b"\x8a\x08" + struct.pack("<q", k << 39) + b"N" for k in range(20_000))
    + b"u.",
    "far memo": b"\x80\x02N"
    + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - k) for k in range(20_000))
    + b".",
}


@pytest.mark.parametrize("case", HARMLESS)
def test_odd_pickles_do_no_harm(case: str) -> None:
    """They may be read; then they are no numbers, and cost neither time nor memory."""
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with nothing_happens():
            stored = loads(HARMLESS[case])
            with pytest.raises(Unreadable):
                numbers(stored)
            del stored
        assert tracemalloc.get_traced_memory()[1] < 60 << 20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 20


def sparse(form: str = "csc", **changed: Any) -> bytes:
    """Return a 2×3 matrix with two elements, some of its parts changed."""
    first, second = ("indptr", "indices") if form != "coo" else ("row", "col")
    parts: dict[str, Any] = {"_shape": (2, 3), first: np.array([0, 1, 1, 2] if form == "csc" else [0, 1]),
                             second: np.array([0, 1]), "data": np.array([2.0, 3.0]), **changed}  # fmt: skip
    writer = Python2Pickle()
    writer.name(f"scipy.sparse.{form}", f"{form}_matrix")
    writer.parts.append(b")\x81")
    writer.begin_dict()
    for key, value in parts.items():
        writer.string(key)
        if isinstance(value, tuple):
            writer.integers(value)
        else:
            writer.value(value)
    writer.end_dict()
    return b"".join([b"\x80\x02", *writer.parts, b"b."])


WRAPPING = np.array([0, 2**63 - 1, -(2**63) + 5, 2])
SPARSE = {
    "huge": sparse(_shape=(2**30, 2**30)),
    "three dimensions": sparse(_shape=(2, 3, 1)),
    "column beyond": sparse(indices=np.array([0, 7])),
    "negative row": sparse(indices=np.array([0, -1])),
    "starts backwards": sparse(indptr=np.array([0, 2, 1, 2])),
    "starts whose differences overflow": sparse(indptr=WRAPPING),
    "unsigned starts that wrap": sparse(indptr=WRAPPING.view(np.uint64)),
    "starts that do not fit": sparse(indptr=np.array([0, 1, 1, 9])),
    "no starts": sparse(indptr=np.zeros(0, int)),
    "fractions": sparse(indices=np.array([0.0, 1.0])),
    "truths": sparse(indices=np.array([True, False])),
    "too few numbers": sparse(data=np.array([1.0])),
    "texts": sparse(data=np.array([b"a", b"b"])),
    "no parts": sparse(data="none"),
    "row beyond": sparse("coo", row=np.array([0, 2])),
}


def test_sparse_matrix_for_comparison() -> None:
    np.testing.assert_array_equal(numbers(loads(sparse())), [[2, 0, 0], [0, 0, 3]])


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_matrices_that_lie(case: str) -> None:
    stored = loads(SPARSE[case])
    with (
        nothing_happens(),
        pytest.raises(Unreadable, match=r"do not fit together|not stored as numbers|impossible"),
    ):
        numbers(stored)


def test_chumpy_in_chumpy_ends_somewhere() -> None:
    nested = b"\x80\x02" + b"cchumpy.ch\nCh\n)\x81}U\x01x" * 20 + array(b")")[2:-1] + b"sb" * 20 + b"."
    with pytest.raises(Unreadable, match="is not stored as numbers"):
        numbers(loads(nested))
    with pytest.raises(Unreadable, match=r"a chumpy expression \(chumpy.ch_ops.add\)"):
        numbers(loads(b"\x80\x02cchumpy.ch_ops\nadd\n)\x81}b."))


def tensor(nested: bytes, shape: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85") -> bytes:
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n"
        + b"B" + struct.pack("<I", len(nested)) + nested + b"\x85RK\x00" + shape + stride
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


STORAGE = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." b"\x80\x02M\xe9\x03." b"\x80\x02}."
    b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02NtQ."
    b"\x80\x02]." + struct.pack("<q2f", 2, 1.5, 2.5)
)  # fmt: skip


def test_torch_tensors() -> None:
    np.testing.assert_array_equal(numbers(loads(tensor(STORAGE))), [1.5, 2.5])
    wrong = {
        "other steps": tensor(STORAGE, stride=b"K\x02\x85"),
        "more than there is": tensor(STORAGE, shape=b"K\x03\x85"),
        "a count that lies": tensor(STORAGE.replace(struct.pack("<q", 2), struct.pack("<q", 3))),
        "another start": tensor(STORAGE.replace(b"l\xfc", b"l\xfd")),
        "an unknown storage": tensor(STORAGE.replace(b"FloatStorage", b"BoolStorage\x20")),
        "a program": tensor(calling(b"os", b"system", b"touch canary")),
        "nothing": tensor(b""),
    }
    for case, data in wrong.items():
        stored = loads(data)
        with nothing_happens(), pytest.raises(Unreadable):
            numbers(stored)
            pytest.fail(case)


# --- Files -------------------------------------------------------------------------------------------------


def file_refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"{path}: ")


def test_programs_in_npy_and_npz(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = np.array(Runs(os.system, f"touch {canary}"), object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "a.npz", v_template=np.zeros((3, 3)), J_regressor=evil)
    for read, name in ((read_npy, "a.npy"), (read_npz, "a.npz")):
        assert file_refusal(read, tmp_path / name).startswith("asks for ")
    assert not canary.exists()


def test_npz_with_numbers_and_objects(tmp_path: Path) -> None:
    sparse_matrix = pytest.importorskip("scipy.sparse").csc_matrix(np.eye(3))
    np.savez(tmp_path / "a.npz", a=np.arange(6).reshape(2, 3), told=np.array({"n_expr": 3}), J=sparse_matrix)
    stored = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(numbers(stored["a"]), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(numbers(stored["J"]), np.eye(3))
    assert stored["told"] == {"n_expr": 3}


NPY: dict[str, Any] = {
    "no header": b"\x93NUMPY\x01\x00\x00\x00",
    "nothing": b"\x93NUM",
    "records": (b"[('a', '<f8')]", "(1,)", 8),
    "huge": (b"'<f8'", "(1000000000, 1000000000)", 8),
    "negative": (b"'<f8'", "(-1,)", 8),
    "too few": (b"'<f8'", "(3,)", 8),
    "program": (b"__import__('os').system('true')", "(1,)", 8),
    "void": (b"'|V8'", "(1,)", 8),
}


@pytest.mark.parametrize("case", NPY)
def test_wrong_npy(tmp_path: Path, case: str) -> None:
    given = NPY[case]
    if isinstance(given, tuple):
        header = b"{'descr': %s, 'fortran_order': False, 'shape': %s, }\n" % (given[0], given[1].encode())
        given = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(given[2])
    (tmp_path / "a.npy").write_bytes(given)
    assert "damaged" in file_refusal(read_npy, tmp_path / "a.npy")


def test_wrong_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "incomplete or altered" in file_refusal(read_npz, path)
    path.write_bytes(whole.replace(bytes(100), b"\x01" * 100))
    assert "incomplete or altered" in file_refusal(read_npz, path)
    np.savez(path, **{f"a{k}": np.zeros(1) for k in range(20)})
    with monkeypatch.context() as patch:
        patch.setattr(_unpickle._Archive, "most", 1000)
        assert "incomplete or altered" in file_refusal(read_npz, path)
    assert len(read_npz(path)) == 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", bytes(1000))
    assert "unusual way" in file_refusal(read_npz, path)
    monkeypatch.setattr(_unpickle, "MAX_BYTES", 1 << 20)
    np.savez_compressed(path, a=np.zeros(100_000), b=np.zeros(100_000))
    assert "too large for a head model" in file_refusal(read_npz, path)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert file_refusal(read_pickle, tmp_path / "none.pkl") == "no such file"
    assert file_refusal(read_pickle, tmp_path) == "is a folder, not a file"
    (tmp_path / "a.pkl").write_bytes(b"")
    assert file_refusal(read_pickle, tmp_path / "a.pkl") == "is empty (0 bytes)"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1, 2]))
    assert file_refusal(read_pickle, tmp_path / "a.pkl").startswith("holds no named arrays")
    with (tmp_path / "big.pkl").open("wb") as file:
        file.truncate(300 << 20)
    assert file_refusal(read_pickle, tmp_path / "big.pkl").startswith("too large for a head model (300 MiB")


# --- Anything at all ---------------------------------------------------------------------------------------

CODES = [code[0] for code in _STEPS]
PIECES = [
    ARRAY,
    FLOATS,
    b"cchumpy.ch\nCh\n)\x81",
    b"cscipy.sparse.csc\ncsc_matrix\n)\x81",
    b"U\x01x",
    b"U\x04data",
    b"cos\nsystem\n",
    b"c__builtin__\nset\n",
    b"K\x03",
    b"J\xff\xff\xff\xff",
    b"U\x07indices",
    b"U\x06indptr",
    b"U\x06_shape",
    b"h\x01",
    b"q\x01",
    b"(K\x01",
    b"\x85",
    b"tb",
    b"R",
    b"sb",
    b"}",
    array(b")")[2:-1],
]


def check_anything(data: bytes) -> None:
    """Read it, and whatever could be read out of it: there is an answer, or ``Unreadable``."""
    with nothing_happens():
        try:
            stored = loads(data)
            for value in [stored, *(stored.values() if isinstance(stored, dict) else ())]:
                try:
                    assert isinstance(numbers(value), np.ndarray)
                except Unreadable as error:
                    assert str(error).isprintable()
        except Unreadable as error:
            assert str(error).isprintable()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, cut some out, or put some opcodes in."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(raw) or 1)
        match rng.randrange(6):
            case 0:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                raw[at : at + 1] = bytes([rng.choice(CODES)])
            case 2:
                raw[at:at] = rng.choice(PIECES)
            case 3:
                del raw[at : at + rng.choice((1, 2, 8, 50))]
            case 4:
                start = rng.randrange(len(raw) or 1)
                raw[at:at] = raw[start : start + rng.choice((3, 20, 100))]
            case _:
                raw[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1)))
    return bytes(raw)


def program(rng: random.Random) -> bytes:
    """Return opcodes in a row, most of which find what they want."""
    parts = [b"\x80\x02"]
    for _ in range(rng.randrange(1, 60)):
        parts.append(rng.choice(PIECES) if rng.random() < 0.5 else bytes([rng.choice(CODES)]))
    return b"".join(parts) + b"."


def fuzz(tmp_path: Path, seconds: float, seed: int) -> int:
    rng, rounds = random.Random(seed), 0
    seeds = [stream(tmp_path), sparse(), sparse("coo"), tensor(STORAGE), LAUGHS + b".", array(b")")]
    seeds += [pickle.dumps(small(), protocol) for protocol in range(6)]
    seeds += [zlib.decompress(base64.b64decode(packed)) for packed in FROM_PYTHON_2.values()]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = program(rng) if rng.random() < 0.2 else mutated(rng.choice(seeds), rng)
        try:
            check_anything(data)
        except BaseException:
            (tmp_path / "failed.pkl").write_bytes(data)
            print(f"round {rounds}: {data!r}"[:5000])
            raise
        rounds += 1
    return rounds


def test_mutated_pickles(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 2, seed=1) > 100


@pytest.mark.slow
def test_mutated_pickles_for_ten_minutes(tmp_path: Path) -> None:
    rounds = fuzz(tmp_path, 600, seed=time.time_ns())
    print(f"{rounds} rounds")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    check_anything(data)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(PIECES), st.sampled_from([bytes([c]) for c in CODES]), st.binary(max_size=4)
        ),
        max_size=40,
    )
)
def test_random_opcodes(parts: list[bytes]) -> None:
    check_anything(b"\x80\x02" + b"".join(parts) + b".")
