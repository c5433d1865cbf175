"""Label Studio's run lengths, written and read; ``make test-tools`` has its own decoder read them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pictures import Inside

from osamd.errors import InvalidRequestError
from osamd.pixels.brush import decode_brush, encode_brush, points_in
from osamd.pixels.masks import mask_from_array
from osamd.types import Mask

insides = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))


def mask_of(inside: Inside) -> Mask:
    """A mask with at least one pixel."""
    mask = mask_from_array(inside, offset=(0, 0), height=inside.shape[0], width=inside.shape[1])
    assert mask is not None
    return mask


def decoded_slowly(packed: list[int]) -> list[int]:
    """The values, read bit by bit as the format is described."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    position = 0

    def number(size: int) -> int:
        nonlocal position
        position += size
        return int(bits[position - size : position], 2)

    count, value_bits = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_repeated = number(1)
        length = number(sizes[number(2)]) + 1
        values += [number(value_bits)] * length if is_repeated else [number(value_bits) for _ in range(length)]
    assert "" == bits[position:].strip("0")
    assert len(bits) - position < 8
    return values


@settings(max_examples=60)
@given(insides.filter(np.any))
def test_a_mask_is_written_and_read(inside: Inside) -> None:
    """All four channels of every pixel are right, and reading is the opposite of writing."""
    packed = encode_brush(mask_of(inside))
    assert (np.repeat(inside.ravel(), 4) * 255).tolist() == decoded_slowly(packed)
    again = decode_brush(bytes(packed), height=inside.shape[0], width=inside.shape[1])
    assert again is not None
    assert mask_of(inside).box == again.box
    assert (mask_of(inside).inside == again.inside).all()


def test_long_runs_are_split() -> None:
    """Runs end after 65 536 values."""
    inside = np.zeros((500, 400), np.bool_)
    inside[100:400, 3:] = True
    inside[150:300] = True
    assert (np.repeat(inside.ravel(), 4) * 255).tolist() == decoded_slowly(encode_brush(mask_of(inside)))


def test_single_values_are_read() -> None:
    """A browser's stroke may have colours, whose values are not repeated; the last channel decides."""
    # 8 values of two pixels, one by one: 1 2 3 0, 0 0 0 9.
    head = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits = head + "0" + "00" + f"{7:03b}" + "".join(f"{value:08b}" for value in (1, 2, 3, 0, 0, 0, 0, 9))
    bits += "0" * (-len(bits) % 8)
    stroke = decode_brush(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)), height=1, width=2)
    assert stroke is not None
    assert (1, 1) == (stroke.box.xmin, stroke.box.xmax)


@settings(max_examples=60)
@given(st.binary(max_size=60), st.integers(0, 59))
def test_anything_else_is_refused(noise: bytes, cut: int) -> None:
    """Noise, ends that are missing, and the size of another image."""
    packed = bytes(encode_brush(mask_of(np.eye(9, dtype=np.bool_))))
    for data in (noise, packed[: min(cut, len(packed) - 1)], packed[:10] + noise):
        try:
            decode_brush(data, height=9, width=9)
        except InvalidRequestError:
            continue
        assert data[:9] == packed[:9]
    with pytest.raises(InvalidRequestError):
        decode_brush(packed, height=9, width=10)


def test_points_of_a_stroke() -> None:
    """A dab is one point in its middle, a line several along it, and a thin one is not missed."""
    dab = np.zeros((60, 80), np.bool_)
    dab[20:41, 30:51] = True
    assert [[40, 30]] == points_in(mask_of(dab), most=5).tolist()
    line = np.zeros((100, 400), np.bool_)
    line[50:56, 20:380] = True
    found = points_in(mask_of(line), most=5)
    assert 5 == len(found)
    assert line[found[:, 1].astype(int), found[:, 0].astype(int)].all()
    assert np.ptp(found[:, 0]) > 340
    dot = np.zeros((9, 9), np.bool_)
    dot[3, 4] = True
    assert [[4, 3]] == points_in(mask_of(dot), most=5).tolist()


def test_points_of_a_large_stroke_take_little_memory() -> None:
    """Every second row of 32 million pixels: each pixel inside is as deep as any other, and few may be looked at."""
    striped = np.zeros((4000, 8000), np.bool_)
    striped[::2] = True
    stroke = mask_of(striped)
    tracemalloc.start()
    try:
        found = points_in(stroke, most=5)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found)
    assert striped[found[:, 1].astype(int), found[:, 0].astype(int)].all()
    assert most_bytes < 3 * striped.nbytes


def test_points_of_a_large_stroke_are_inside() -> None:
    """A line of one pixel across a large image is not missed, nor left."""
    line = np.zeros((3000, 3000), np.bool_)
    line[np.arange(3000), np.arange(3000)[::-1]] = True
    found = points_in(mask_of(line), most=5)
    assert 5 == len(found)
    assert line[found[:, 1].astype(int), found[:, 0].astype(int)].all()
