import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osamd.pixels.masks import full_array, mask_from_logits
from osamd.pixels.windows import MOST_BYTES, Window, box_around, compressed, cut, from_image, onto_image, window_around
from osamd.types import Detail, MaskLogits, Prompt, SmallPicture


@st.composite
def looks(draw: st.DrawFn) -> tuple[int, int, SmallPicture, npt.NDArray[np.float32]]:
    """An image's height and width, a picture of it, smaller or as large, and a box in the image."""
    height, width = draw(st.integers(150, 1500)), draw(st.integers(150, 1500))
    rows, columns = draw(st.integers(120, min(height, 700))), draw(st.integers(120, min(width, 700)))
    x1, y1 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
    x2, y2 = draw(st.floats(x1, width)), draw(st.floats(y1, height))
    picture = SmallPicture(np.zeros(0, np.uint8), rows, columns)
    return height, width, picture, np.array([x1, y1, x2, y2], np.float32)


@given(look=looks())
def test_a_window_shows_the_box_and_lies_in_the_picture(
    look: tuple[int, int, SmallPicture, npt.NDArray[np.float32]],
) -> None:
    """Also a box at the border, one as large as the image, and one of a single pixel."""
    height, width, picture, box = look

    window = window_around(box, picture, height=height, width=width)

    assert 0 <= window.left < window.right <= picture.columns
    assert 0 <= window.top < window.bottom <= picture.rows
    assert window.contains(Prompt(boxes=box[None]))
    left, top, right, bottom = window.edges
    assert left - 1e-6 <= box[0]
    assert top - 1e-6 <= box[1]
    assert min(box[2] + 1, width) <= right + 1e-3
    assert min(box[3] + 1, height) <= bottom + 1e-3


@settings(deadline=None, max_examples=40)
@given(look=looks(), data=st.data(), rows=st.integers(16, 112), columns=st.integers(16, 112))
def test_an_edge_in_a_window_comes_back_where_it_is_in_the_image(
    look: tuple[int, int, SmallPicture, npt.NDArray[np.float32]], data: st.DataObject, rows: int, columns: int
) -> None:
    """What lies left of and above a point of the image, given to the window and drawn there, is there to half a pixel.

    An enlarged window draws as exactly; a reduced one, of larger cells than pixels, is exact between their centres.
    """
    height, width, picture, box = look
    window = window_around(box, picture, height=height, width=width)
    left, top, right, bottom = window.edges
    inner_width, inner_height = window.right - window.left, window.bottom - window.top
    # Where bilinear interpolation does not repeat the outermost values.
    x = data.draw(st.floats(left + (right - left) / columns, right - (right - left) / columns)) - 0.5
    y = data.draw(st.floats(top + (bottom - top) / rows, bottom - (bottom - top) / rows)) - 0.5

    ((inner_x, inner_y),) = window.to_window(np.array([[x, y]], np.float32))
    cells_x = (np.arange(columns, dtype=np.float32) + 0.5) * inner_width / columns - 0.5
    cells_y = (np.arange(rows, dtype=np.float32) + 0.5) * inner_height / rows - 0.5
    before_x = np.broadcast_to(inner_x - cells_x, (rows, columns))
    before_y = np.broadcast_to((inner_y - cells_y)[:, None], (rows, columns))

    for values, edge, axis in ((before_x, x, 1), (before_y, y, 0)):
        detail = Detail(np.ascontiguousarray(values, np.float32), window.edges)
        coarse = np.full((8, 8), -1, np.float32)
        mask = mask_from_logits(MaskLogits(coarse, 8, 8, detail=detail), height=height, width=width)
        inside = np.zeros((height, width), np.bool_) if mask is None else full_array(mask) > 0
        found = np.flatnonzero(inside.any(axis=1 - axis))
        start = (left, top)[1 - axis]
        first = int(np.ceil(start - 0.5))
        expected = np.arange(first, int(np.ceil(edge)))
        # The last pixel's centre is at most half a pixel from the edge.
        assert abs(len(found) - len(expected)) <= 1
        if len(found):
            assert first == found[0]
            assert edge - 1.5 <= found[-1] <= edge + 0.5


@pytest.mark.parametrize("size", [(2048, 1365), (227, 200), (1400, 936)])
def test_a_box_up_to_the_far_edges_is_in_its_window(size: tuple[int, int]) -> None:
    """Also where the size of the image, as computed from the picture's, comes out a rounding smaller."""
    width, height = size
    rows, columns = min(height, 704), min(width, 1088) // 16 * 16
    picture = SmallPicture(np.zeros(0, np.uint8), rows, columns)
    box = np.array([width - 30, height - 20, width, height], np.float32)

    window = window_around(box, picture, height=height, width=width)

    assert (width, height) == window.edges[2:]
    assert window.contains(Prompt(boxes=box[None]))


def test_nothing_is_found_outside_the_window() -> None:
    """A window that is all object is filled to its edges, and no further."""
    detail = Detail(np.full((16, 16), 3, np.float32), (30.0, 20.0, 70.0, 60.0))
    mask = mask_from_logits(MaskLogits(np.ones((8, 8), np.float32), 8, 8, detail=detail), height=100, width=100)

    assert mask is not None
    assert (30, 20, 69, 59) == (mask.box.xmin, mask.box.ymin, mask.box.xmax, mask.box.ymax)
    assert mask.inside.all()


def test_the_coarse_mask_is_the_fine_one() -> None:
    """On the grid of the whole image, what was found in a window covers as much, at the same place."""
    picture = SmallPicture(np.zeros(0, np.uint8), 400, 600)
    window = Window(100, 80, 340, 280, 600 / 1800, 400 / 1200)
    values = np.full((100, 120), -4, np.float32)
    values[25:75, 30:90] = 4

    whole = onto_image(values, window, rows=100, columns=150, picture=picture)
    fine = mask_from_logits(MaskLogits(whole, 100, 150, detail=Detail(values, window.edges)), height=1200, width=1800)
    coarse = mask_from_logits(MaskLogits(whole, 100, 150), height=1200, width=1800)

    assert (100, 150) == whole.shape
    assert fine is not None
    assert coarse is not None
    for one, other in zip(
        (fine.box.xmin, fine.box.ymin, fine.box.xmax, fine.box.ymax),
        (coarse.box.xmin, coarse.box.ymin, coarse.box.xmax, coarse.box.ymax),
        strict=True,
    ):
        assert abs(one - other) <= 6


@given(look=looks(), rows=st.integers(16, 112), columns=st.integers(16, 112))
def test_a_window_gets_its_part_of_the_whole_image(
    look: tuple[int, int, SmallPicture, npt.NDArray[np.float32]], rows: int, columns: int
) -> None:
    """Values that grow evenly across the image are, at the centre of each cell of a window, those of its place."""
    height, width, picture, box = look
    window = window_around(box, picture, height=height, width=width)
    down, across = (np.arange(count) + 0.5 for count in (80, 100))
    values = (across / 100 + 2 * (down / 80)[:, None]).astype(np.float32)

    found = from_image(values, window, rows=rows, columns=columns, picture=picture)

    left, top, right, bottom = window.edges
    # Beyond the centres of the outermost cells there is nothing to interpolate.
    x = np.clip((left + (np.arange(columns) + 0.5) * (right - left) / columns) / width, 0.5 / 100, 1 - 0.5 / 100)
    y = np.clip((top + (np.arange(rows) + 0.5) * (bottom - top) / rows) / height, 0.5 / 80, 1 - 0.5 / 80)
    assert (rows, columns) == found.shape
    np.testing.assert_allclose(x + 2 * y[:, None], found, atol=2e-3)


@given(data=st.data(), height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_the_box_of_a_mask_covers_its_cells(data: st.DataObject, height: int, width: int) -> None:
    """From the outer edge of its first cell to that of its last, as the pixels of a box are; an empty mask has none."""
    top, left = data.draw(st.integers(0, 49)), data.draw(st.integers(0, 79))
    bottom, right = data.draw(st.integers(top, 49)), data.draw(st.integers(left, 79))
    mask = np.zeros((50, 80), np.bool_)
    assert box_around(mask, height=height, width=width) is None
    mask[top, left] = mask[bottom, right] = True

    box = box_around(mask, height=height, width=width)

    assert box is not None
    step_x, step_y = width / 80, height / 50
    expected = [left * step_x, top * step_y, (right + 1) * step_x - 1, (bottom + 1) * step_y - 1]
    np.testing.assert_allclose(expected, box, atol=1e-3)


def test_a_picture_is_small_and_close_to_the_pixels() -> None:
    """Noise, which compresses worst, is kept in less than a megabyte; a window of a smooth image in its colours."""
    noise = np.random.default_rng(0).integers(0, 256, (736, 1088, 3)).astype(np.uint8)
    down, across = np.mgrid[:300, :400]
    smooth = np.stack([down / 2, across / 2, np.full((300, 400), 200)], axis=2).astype(np.uint8)

    kept = compressed(smooth)
    window = Window(37, 50, 150, 181, 1.0, 1.0)

    assert compressed(noise).jpeg.nbytes <= MOST_BYTES
    assert (300, 400) == (kept.rows, kept.columns)
    np.testing.assert_allclose(smooth[50:181, 37:150], cut(kept, window), atol=6)
