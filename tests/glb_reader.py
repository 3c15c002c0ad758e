"""A strict reader of GLB files for tests: written from the glTF 2.0 specification, without any library."""

from __future__ import annotations

import io
import itertools
import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
_COMPONENTS = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Glb:
    """The parts of a GLB with at most one mesh, primitive, skin and animation."""

    def __init__(self, data: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON"
        assert size % 4 == 0
        self.json: dict[str, Any] = json.loads(data[20 : 20 + size])
        binary, kind = struct.unpack_from("<I4s", data, 20 + size)
        assert kind == b"BIN\0"
        assert binary % 4 == 0
        assert 28 + size + binary == len(data)
        self.blob = data[28 + size :]
        meshes = self.json.get("meshes", [{"primitives": [{}]}])
        self.primitive: dict[str, Any] = meshes[0]["primitives"][0]

    def view(self, number: int) -> bytes:
        view = self.json["bufferViews"][number]
        start, size = view.get("byteOffset", 0), view["byteLength"]
        assert view["buffer"] == 0
        assert size > 0
        assert start % 4 == 0
        assert start + size <= len(self.blob)
        return self.blob[start : start + size]

    def _read(self, view: int, offset: int, component: int, rows: int, width: int) -> Array:
        kind = np.dtype(_COMPONENTS[component])
        data = self.view(view)
        assert offset % kind.itemsize == 0
        assert offset + rows * width * kind.itemsize <= len(data)
        return np.frombuffer(data, kind, rows * width, offset).reshape(rows, width)

    def array(self, number: int) -> Array:
        """An accessor's values, sparse ones filled in: (N,) or (N, C)."""
        a = self.json["accessors"][number]
        rows, width = a["count"], _WIDTHS[a["type"]]
        assert rows > 0
        if a.get("bufferView") is None:
            values = np.zeros((rows, width), _COMPONENTS[a["componentType"]])
        else:
            values = self._read(
                a["bufferView"], a.get("byteOffset", 0), a["componentType"], rows, width
            ).copy()
        if "sparse" in a:
            sparse = a["sparse"]
            count, where, what = sparse["count"], sparse["indices"], sparse["values"]
            assert 0 < count <= rows
            index = self._read(
                where["bufferView"], where.get("byteOffset", 0), where["componentType"], count, 1
            )
            steps = np.diff(index[:, 0].astype(np.int64))
            assert (steps > 0).all()
            assert index.max() < rows
            for number_ in (where["bufferView"], what["bufferView"]):
                assert not {"target", "byteStride"} & set(self.json["bufferViews"][number_])
            values[index[:, 0]] = self._read(
                what["bufferView"], what.get("byteOffset", 0), a["componentType"], count, width
            )
        return values[:, 0] if width == 1 else values

    def attribute(self, name: str) -> Array:
        return self.array(self.primitive["attributes"][name])

    def channels(self) -> dict[tuple[int, str], tuple[Array, Array]]:
        """Node and path of each animated property, to times (K,) and values (K, …)."""
        (animation,) = self.json["animations"]
        found = {}
        for channel in animation["channels"]:
            sampler, target = animation["samplers"][channel["sampler"]], channel["target"]
            assert sampler["interpolation"] == "LINEAR"
            times, values = self.array(sampler["input"]), self.array(sampler["output"])
            assert (target["node"], target["path"]) not in found
            found[target["node"], target["path"]] = times, values.reshape(len(times), -1)
        return found

    def check(self) -> None:
        """Everything that the specification asks of the kinds of object in a file with a head."""
        self.check_buffers()
        self._check_primitive()
        self._check_nodes()
        for image in self.json.get("images", []):
            assert image["mimeType"] == "image/jpeg"
            assert Image.open(io.BytesIO(self.view(image["bufferView"]))).format == "JPEG"

    def check_buffers(self) -> None:
        """What the specification asks of any file: its buffer, accessors and animation."""
        assert self.json["asset"]["version"] == "2.0"
        assert [b["byteLength"] for b in self.json["buffers"]] == [len(self.blob)]
        assert _no_empty(self.json)
        self._check_views()
        for number in range(len(self.json["accessors"])):
            self._check_accessor(number)
        if "animations" in self.json:
            self._check_animation()

    def _check_animation(self) -> None:
        (animation,) = self.json["animations"]
        used = {c["sampler"] for c in animation["channels"]}
        assert used == set(range(len(animation["samplers"])))
        widths = {"weights": len(self.primitive.get("targets", [])), "translation": 3, "rotation": 4}
        for sampler in animation["samplers"]:
            assert {"min", "max"} <= set(self.json["accessors"][sampler["input"]])
        for (_, path), (times, values) in self.channels().items():
            assert times.dtype == np.float32
            assert times[0] >= 0
            assert (np.diff(times) > 0).all()
            assert values.shape == (len(times), widths[path])
            if path == "rotation":
                np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)

    def _check_views(self) -> None:
        """Views lie one after the other, without overlap, and each is used."""
        views = self.json["bufferViews"]
        spans = sorted((v.get("byteOffset", 0), v["byteLength"]) for v in views)
        for (start, size), (after, _) in itertools.pairwise(spans):
            assert start + size <= after
        used = {a["bufferView"] for a in self.json["accessors"] if a.get("bufferView") is not None}
        for a in self.json["accessors"]:
            if "sparse" in a:
                used |= {a["sparse"]["indices"]["bufferView"], a["sparse"]["values"]["bufferView"]}
        used |= {i["bufferView"] for i in self.json.get("images", [])}
        assert used == set(range(len(views)))

    def _check_accessor(self, number: int) -> None:
        a, values = self.json["accessors"][number], self.array(number)
        if values.dtype.kind == "f":
            assert np.isfinite(values).all()
        flat = values.reshape(len(values), -1)
        for key, bound in (("min", flat.min(axis=0)), ("max", flat.max(axis=0))):
            if key in a:
                np.testing.assert_array_equal(a[key], bound.tolist())

    def _check_primitive(self) -> None:
        attributes, accessors = self.primitive["attributes"], self.json["accessors"]
        count = accessors[attributes["POSITION"]]["count"]
        groups = [attributes, *self.primitive["targets"]]
        for group in groups:
            assert all(accessors[n]["count"] == count for n in group.values())
            assert {"min", "max"} <= set(accessors[group["POSITION"]])
            for number in group.values():
                row = self.array(number)
                assert row[0].nbytes % 4 == 0
        assert all(set(t) == {"POSITION", "NORMAL"} for t in self.primitive["targets"])
        mesh = self.json["meshes"][0]
        assert len(mesh["weights"]) == len(mesh["extras"]["targetNames"]) == len(self.primitive["targets"])
        assert len(set(mesh["extras"]["targetNames"])) == len(mesh["weights"])
        indices = self.array(self.primitive["indices"])
        assert len(indices) % 3 == 0
        assert set(np.unique(indices)) == set(range(count))
        assert indices.max() < np.iinfo(indices.dtype).max  # the primitive restart value
        np.testing.assert_allclose(np.linalg.norm(self.attribute("NORMAL"), axis=1), 1, atol=1e-5)
        joints, weights = self.attribute("JOINTS_0"), self.attribute("WEIGHTS_0")
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        assert weights.min() >= 0
        assert joints.max() < len(self.json["skins"][0]["joints"])
        assert (joints[weights == 0] == 0).all()

    def _check_nodes(self) -> None:
        nodes, skin = self.json["nodes"], self.json["skins"][0]
        children = [c for n in nodes for c in n.get("children", [])]
        assert len(children) == len(set(children))
        roots = set(range(len(nodes))) - set(children)
        assert set(self.json["scenes"][self.json["scene"]]["nodes"]) == roots
        (mesh,) = [k for k, n in enumerate(nodes) if "mesh" in n]
        assert mesh in roots  # a skinned mesh ignores what is above it
        assert nodes[mesh]["skin"] == 0
        assert skin["skeleton"] in roots
        assert self.array(skin["inverseBindMatrices"]).shape == (len(skin["joints"]), 16)
        assert all(n.get("name") for n in nodes)

    def skinned(
        self,
        rotations: dict[int, Array],
        translations: dict[int, Array] | None = None,
        points: Array | None = None,
    ) -> Array:
        """(N, 3) vertices with the joint nodes turned by axis-angle rotations, as section 3.7.3 says.

        ``translations`` replace the nodes' own, ``points`` (N, 3) those of the mesh.
        """
        nodes, skin = self.json["nodes"], self.json["skins"][0]
        world: dict[int, Array] = {}

        def visit(number: int, above: Array) -> None:
            local = np.eye(4)
            local[:3, :3] = _matrix(rotations[number].astype(float))
            own = nodes[number].get("translation", [0, 0, 0])
            local[:3, 3] = (translations or {}).get(number, own)
            world[number] = above @ local
            for child in nodes[number].get("children", []):
                visit(child, world[number])

        visit(skin["skeleton"], np.eye(4))
        inverse = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        matrices = np.stack([world[j] @ m for j, m in zip(skin["joints"], inverse, strict=True)])
        blended = np.einsum("nk,nkij->nij", self.attribute("WEIGHTS_0"), matrices[self.attribute("JOINTS_0")])
        start = self.attribute("POSITION") if points is None else points
        return np.einsum("nij,nj->ni", blended, np.column_stack([start, np.ones(len(start))]))[:, :3]


def _matrix(rotation: Array) -> Array:
    angle = float(np.linalg.norm(rotation))
    if angle == 0:
        return np.eye(3)
    x, y, z = rotation / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _no_empty(value: Any) -> bool:
    """No object or list is empty, and nothing is null: the schema forbids both."""
    if isinstance(value, dict):
        return bool(value) and all(_no_empty(v) for v in value.values())
    if isinstance(value, list):
        return bool(value) and all(_no_empty(v) for v in value)
    return value is not None
