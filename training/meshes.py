"""Textured 3-D models, read from the formats of free games: what assimp reads, and MegaGlest's G3D."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from training.library import ByteArray

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

G3D: Final = ".g3d"
MD2: Final = ".md2"
MD2_HEADER: Final = struct.Struct("<4s16i")
MD2_TRIANGLE: Final = np.dtype([("points", "<u2", 3), ("places", "<u2", 3)])
G3D_VERSION: Final = 4
G3D_MESH: Final = struct.Struct("<64s3I3f3f2f2I")
TEAM_COLOURED: Final = 1
UNITS: Final = "units"
TEXTURE_NAME_LENGTH: Final = 64
SKINS: Final = (".jpg", ".png", ".tga")
LARGEST_TEXTURE: Final = 1024


class UnreadableModelError(Exception):
    """A file is damaged, or of a version that is not read."""


@dataclass(frozen=True)
class Mesh:
    """Triangles of one material.

    Attributes:
        name: of the part, as its maker called it; may be empty.
        points: (n, 3) float32, y up.
        normals: (n, 3) float32, or None.
        places: (n, 2) float32, where in the texture each point lies, v up, or None.
        triangles: (m, 3) indices of points.
        colour: red, green and blue, 0 to 1, of what has no texture.
        texture: (h, w, 4) uint8 RGBA, or None.
    """

    name: str
    points: FloatArray
    normals: FloatArray | None
    places: FloatArray | None
    triangles: IntArray
    colour: tuple[float, float, float]
    texture: ByteArray | None


def read_meshes(path: Path, files: dict[str, Path], rng: np.random.Generator) -> list[Mesh]:
    """All meshes of a model; ``files`` are the package's textures by stem in lower case.

    Raises:
        UnreadableModelError: nothing could be read.
    """
    textures = Textures(path.parent, files)
    if path.suffix == G3D:
        found = list(_g3d(path, textures, rng))
    elif path.suffix == MD2:
        found = list(_md2(path, textures, rng))
    else:
        found = list(_assimp(path, textures))
    if not found:
        raise UnreadableModelError(f"{path} has no meshes")
    return found


class Textures:
    """Finds and reads textures: models name them by another folder, letter case or format than they have."""

    def __init__(self, folder: Path, files: dict[str, Path]) -> None:
        self._folder, self._files = folder, files
        self._read: dict[Path, ByteArray | None] = {}

    def read(self, name: str) -> ByteArray | None:
        """(h, w, 4) uint8 RGBA with sides of at most 1024 pixels, or None if there is none."""
        name = name.replace("\\", "/").strip()
        if not name:
            return None
        path = self._folder / name
        if not path.is_file():
            beside = self._folder / Path(name).name
            path = beside if beside.is_file() else self._files.get(Path(name).stem.lower(), path)
        if path not in self._read:
            try:
                with Image.open(path) as image:
                    image.thumbnail((LARGEST_TEXTURE, LARGEST_TEXTURE))
                    self._read[path] = np.asarray(image.convert("RGBA"))
            except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
                self._read[path] = None
        return self._read[path]


def _assimp(path: Path, textures: Textures) -> Iterator[Mesh]:
    import assimp_py  # noqa: PLC0415  # Only for training.

    steps = (
        assimp_py.Process_Triangulate
        | assimp_py.Process_GenSmoothNormals
        | assimp_py.Process_JoinIdenticalVertices
        | assimp_py.Process_SortByPType
    )
    try:
        scene = assimp_py.import_file(str(path), steps)
    except (RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise UnreadableModelError(f"{path}: {error}") from error
    nodes = [(scene.root_node, np.eye(4))]
    while nodes:
        node, outer = nodes.pop()
        own = np.array(node.transformation, np.float64).reshape(4, 4)
        if path.suffix == ".md3":
            # What joins a player's parts is not a unit matrix of rotation there.
            own[:3, :3] /= np.maximum(np.linalg.norm(own[:3, :3], axis=0), 1e-6)
        placed = outer @ own
        nodes += [(child, placed) for child in node.children]
        for index in node.mesh_indices:
            mesh = scene.meshes[index]
            triangles = np.array(mesh.indices, np.int64)
            points = np.asarray(mesh.vertices, np.float32).reshape(-1, 3)
            if not len(triangles) or len(triangles) % 3 or triangles.max() >= len(points):
                continue
            normals = None
            if mesh.normals is not None and len(mesh.normals):
                normals = np.asarray(mesh.normals, np.float32).reshape(-1, 3) @ placed[:3, :3].T
            places = None
            if mesh.texcoords and mesh.num_uv_components[0] >= 2:  # noqa: PLR2004
                # A copy: the memory goes with the scene.
                places = np.array(mesh.texcoords[0], np.float32).reshape(len(points), -1)[:, :2]
            material = scene.materials[mesh.material_index]
            named = next((names[0] for kind, names in sorted(material.get("TEXTURES", {}).items()) if kind == 1), "")
            yield Mesh(
                name=node.name or mesh.name,
                points=(points @ placed[:3, :3].T + placed[:3, 3]).astype(np.float32),
                normals=None if normals is None else normals.astype(np.float32),
                places=places,
                triangles=triangles.reshape(-1, 3),
                colour=tuple(material.get("COLOR_DIFFUSE", (0.6, 0.6, 0.6))[:3]),
                texture=textures.read(named) if places is not None else None,
            )


def _g3d(path: Path, textures: Textures, rng: np.random.Generator) -> Iterator[Mesh]:
    """The meshes of a G3D file of version 4, in one random frame of its animation."""
    data = path.read_bytes()
    team = rng.integers(0, 256, 3)
    moment = rng.random()
    try:
        magic, version, count, _ = struct.unpack_from("<3sBHB", data)
        if magic != b"G3D" or version != G3D_VERSION:
            raise UnreadableModelError(f"{path} is not G3D of version 4")
        at = struct.calcsize("<3sBHB")
        for _ in range(count):
            name, frames, points, indices, *values = G3D_MESH.unpack_from(data, at)
            at += G3D_MESH.size
            colour, properties, flags = values[:3], values[8], values[9]
            names = []
            for _ in range(int(flags).bit_count()):
                names.append(_text(data[at : at + TEXTURE_NAME_LENGTH]))
                at += TEXTURE_NAME_LENGTH
            frame = int(moment * frames)
            size = points * 3
            xyz = np.frombuffer(data, "<f4", size, at + 4 * frame * size).reshape(-1, 3)
            normals = np.frombuffer(data, "<f4", size, at + 4 * (frames + frame) * size).reshape(-1, 3)
            at += 8 * frames * size
            places = None
            if flags:
                places = np.frombuffer(data, "<f4", points * 2, at).reshape(-1, 2)
                at += 8 * points
            triangles = np.frombuffer(data, "<u4", indices, at).astype(np.int64).reshape(-1, 3)
            at += 4 * indices
            texture = textures.read(names[0]) if names and flags & 1 else None
            if texture is not None and properties & TEAM_COLOURED and UNITS in path.parts:
                share = texture[..., 3:] / 255
                mixed = texture[..., :3] * share + team * (1 - share)
                texture = np.dstack([mixed, np.full_like(share, 255)]).astype(np.uint8)
            yield Mesh(_text(name), xyz, normals, places, triangles, (colour[0], colour[1], colour[2]), texture)
    except (struct.error, ValueError) as error:
        raise UnreadableModelError(f"{path}: {error}") from error


def _md2(path: Path, textures: Textures, rng: np.random.Generator) -> Iterator[Mesh]:
    """The mesh of an MD2 file, in one random frame of its animation, with a skin that lies beside it.

    The sizes in the headers of Ufo: Alien Invasion's files are not those of the files, so that assimp refuses them.
    """
    data = path.read_bytes()
    try:
        header = MD2_HEADER.unpack_from(data)
        magic, width, height, frame_size, skins, points, places, triangles = *header[:1], *header[2:9]
        _, frames, at_skins, at_places, at_triangles, at_frames = header[9:15]
        if magic != b"IDP2":
            raise UnreadableModelError(f"{path} is not MD2")
        at = at_frames + int(rng.integers(frames)) * frame_size
        scale, origin = np.frombuffer(data, "<f4", 6, at).reshape(2, 3)
        packed = np.frombuffer(data, np.uint8, 4 * points, at + 40).reshape(-1, 4)
        x, y, z = (packed[:, :3] * scale + origin).astype(np.float32).T
        st = np.frombuffer(data, "<i2", 2 * places, at_places).reshape(-1, 2) / (width, height)
        corners = np.frombuffer(data, MD2_TRIANGLE, triangles, at_triangles)
        named = _text(data[at_skins : at_skins + TEXTURE_NAME_LENGTH]) if skins else ""
    except (struct.error, ValueError) as error:
        raise UnreadableModelError(f"{path}: {error}") from error
    texture = textures.read(named)
    if texture is None:
        beside = [file for file in sorted(path.parent.glob(f"{path.stem}*")) if file.suffix in SKINS]
        texture = textures.read(beside[int(rng.integers(len(beside)))].name) if beside else None
    # z is up there, and a corner has its place in the texture apart from its point.
    pairs = np.stack([corners["points"].astype(np.int64), corners["places"].astype(np.int64)], -1).reshape(-1, 2)
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    if len(unique) == 0 or unique[:, 0].max() >= points or unique[:, 1].max() >= places:
        raise UnreadableModelError(f"{path} has corners without a point")
    xyz = np.column_stack([x, z, -y])
    normals = _smooth_normals(xyz, corners["points"].astype(np.int64))
    uv = (st * (1, -1) + (0, 1)).astype(np.float32)
    yield Mesh(
        name="",
        points=xyz[unique[:, 0]],
        normals=normals[unique[:, 0]],
        places=uv[unique[:, 1]],
        triangles=index.reshape(-1, 3)[:, ::-1],
        colour=(0.6, 0.6, 0.6),
        texture=texture,
    )


def _smooth_normals(points: FloatArray, triangles: IntArray) -> FloatArray:
    """A normal for each point: the mean of those of its triangles, weighted by area."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    across = np.cross(c - a, b - a)
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], across)
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("ascii", "replace")
