"""Cut-outs of rendered models, and the readers of their files; without a renderer."""

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training.dice import Dice
from training.layers import Cut, LayerMaker
from training.library import ByteArray, Found, Library, write
from training.meshes import Mesh, UnreadableModelError, read_meshes
from training.models import KIND, PARTS, cutout
from training.outlines import pack
from training.pieces import Pieces

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]], np.float32)


def mesh(name: str, *, is_textured: bool = True) -> Mesh:
    """One triangle."""
    texture = np.full((2, 2, 4), 200, np.uint8) if is_textured else None
    return Mesh(name, TRIANGLE, None, TRIANGLE[:, :2], np.array([[0, 1, 2]]), (1, 1, 1), texture)


def drawing() -> tuple[ByteArray, ByteArray]:
    """A figure whose upper half is mesh 1, the rest 2 and 3, with a speck of 3 beside it."""
    numbers = np.zeros((600, 600), np.uint8)
    rows, columns = np.ogrid[:600, :600]
    figure = (rows - 300) ** 2 / 250**2 + (columns - 300) ** 2 / 120**2 < 1
    numbers[figure] = 2
    numbers[:280][figure[:280]] = 1
    numbers[:, 300:][figure[:, 300:] & (numbers[:, 300:] == 2)] = 3
    numbers[20:26, 20:26] = 3
    colours = np.dstack([numbers * 60] * 3)
    return colours, numbers


def test_a_rendered_model_becomes_a_cutout_with_its_named_parts() -> None:
    """At half the size, without specks; meshes of one name are one part, nameless ones none."""
    cut, reason = cutout(*drawing(), [mesh("head"), mesh("body"), mesh("body")])

    assert not reason
    assert cut is not None
    pixels, parts = cut
    assert abs(pixels.shape[0] - 250) <= 1
    assert abs(pixels.shape[1] - 120) <= 1
    assert 0.7 < (pixels[..., 3] > 127).mean() < 0.82
    head, body = parts
    assert (pixels.shape[0] // 2, pixels.shape[1] // 2) == head.shape == body.shape
    assert head[:60].sum() > 0.99 * head.sum()
    assert body[55:].sum() > 0.99 * body.sum()

    nameless, _ = cutout(*drawing(), [mesh(""), mesh(""), mesh("")])
    assert nameless is not None
    assert [] == nameless[1]


def test_what_is_no_whole_textured_thing_is_left_out() -> None:
    """Cut off by the frame, without textures, dark."""
    colours, numbers = drawing()
    meshes = [mesh("head"), mesh("body"), mesh("body")]
    reasons = Counter(
        (
            cutout(colours[100:], numbers[100:], meshes)[1],
            cutout(colours, numbers, [mesh("", is_textured=False)] * 3)[1],
            cutout(colours // 10, numbers, meshes)[1],
        )
    )

    assert {"cut off": 1, "untextured": 1, "dark or glaring": 1} == reasons


def test_a_g3d_file_is_read_with_the_team_s_colour(tmp_path: Path) -> None:
    """Where a unit's texture is transparent, the team's colour shows."""
    folder = tmp_path / "units"
    folder.mkdir()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(folder / "skin.png")
    header = struct.pack("<3sBHB", b"G3D", 4, 1, 0)
    about = struct.pack("<64s3I3f3f2f2I", b"torso", 1, 3, 3, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1)
    normals = np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    body = TRIANGLE.tobytes() + normals.tobytes() + TRIANGLE[:, :2].tobytes() + np.arange(3, dtype="<u4").tobytes()
    path = folder / "unit.g3d"
    path.write_bytes(header + about + b"skin.png".ljust(64, b"\0") + body)

    (found,) = read_meshes(path, {}, np.random.default_rng(0))

    assert "torso" == found.name
    np.testing.assert_array_equal(found.points, TRIANGLE)
    np.testing.assert_array_equal(found.triangles, [[0, 1, 2]])
    assert found.texture is not None
    team = np.random.default_rng(0).integers(0, 256, 3)
    np.testing.assert_array_equal(found.texture[0, 0], [*team, 255])

    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableModelError):
        read_meshes(path, {}, np.random.default_rng(0))


def test_an_md2_file_is_read_with_y_up_and_a_skin_beside_it(tmp_path: Path) -> None:
    """Its points are bytes times a scale, its z is up."""
    Image.new("RGB", (8, 4), (50, 60, 70)).save(tmp_path / "fish_a.png")
    places = np.array([[0, 0], [8, 0], [0, 4]], "<i2")
    triangle = np.array([0, 1, 2, 0, 1, 2], "<u2")
    points = np.array([[0, 0, 0, 0], [10, 0, 0, 0], [0, 0, 20, 0]], np.uint8)
    frame = struct.pack("<6f16s", 0.5, 0.5, 0.5, 1, 2, 3, b"stand") + points.tobytes()
    at = 68
    header = (8, 8, 4, len(frame), 0, 3, 3, 1, 0, 1, at, at, at + 12, at + 24, 0, 0)
    path = tmp_path / "fish.md2"
    path.write_bytes(struct.pack("<4s16i", b"IDP2", *header) + places.tobytes() + triangle.tobytes() + frame)

    (found,) = read_meshes(path, {}, np.random.default_rng(0))

    np.testing.assert_allclose(found.points, [[1, 3, -2], [6, 3, -2], [1, 13, -2]])
    assert found.places is not None
    np.testing.assert_allclose(found.places, [[0, 1], [1, 1], [0, 0]])
    assert found.texture is not None
    assert [50, 60, 70, 255] == found.texture[0, 0].tolist()


def test_a_model_s_parts_are_parts_of_its_layer(tmp_path: Path) -> None:
    """Resized, mirrored and turned with it."""
    rng = np.random.default_rng(0)
    pixels = np.full((200, 100, 4), 255, np.uint8)
    upper = np.zeros((100, 50), np.bool_)
    upper[:40] = True
    background = Found("background", "made-up", "photo", rng.integers(0, 255, (300, 300, 3)).astype(np.uint8))
    texture = Found("texture", "made-up", "wall", rng.integers(0, 255, (300, 300, 3)).astype(np.uint8))
    model, parts = Found(KIND, "made-up", "figure#0", pixels), Found(PARTS, "made-up", "figure#0", pack([upper]))
    write([background, texture, model, parts], tmp_path)
    library = Library.load(tmp_path)
    dice = Dice(rng)
    maker = LayerMaker(library, Pieces(library, dice), dice)

    drawn, packed = library.draw_with_parts(KIND, rng)
    assert packed is not None
    for _ in range(10):
        layer = maker.layer(Cut(KIND, drawn, is_textured=False, parts=packed), 120, background.pixels, is_leaves=False)
        (part,) = layer.parts
        assert part.shape == layer.alpha.shape[:2]
        assert 0.25 < part.sum() / (layer.alpha > 0.5).sum() < 0.45
