from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pictures import iou

from osamd.library.catalog import load_catalog
from osamd.library.store import Store
from osamd.models import build_model
from osamd.models.answers import Answer
from osamd.models.base import Adapter, encode_pixels
from osamd.models.builtin import MOST_WINDOWS_A_PROMPT
from osamd.models.builtin_tensors import grid_of
from osamd.models.second_look import MOST_WINDOWS, Look, SecondLook
from osamd.pixels.masks import full_array, mask_from_logits
from osamd.runtime.sessions import CPU, Placement, Session
from osamd.types import Detail, Embedding, MaskLogits, Prompt

Bools = npt.NDArray[np.bool_]
MODEL = load_catalog().resolve("builtin")
HEIGHT, WIDTH = 900, 1350
# A star of thin rays in a photo of noise, 130 pixels of 1350 wide.
CENTRE, RADIUS = (420, 300), 65
AROUND = (355.0, 235.0, 485.0, 365.0)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """The packaged weights on the CPU."""
    return build_model(MODEL, Store(Path("nowhere")).paths(MODEL), Placement((CPU,), 2))


@pytest.fixture(scope="module")
def star() -> Bools:
    """Where the star is."""
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    reach = np.where(np.arange(20) % 2, 0.4, 1.0) * RADIUS
    corners = np.stack([CENTRE[0] + reach * np.cos(angles), CENTRE[1] + reach * np.sin(angles)], axis=1)
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], (1,))
    return inside > 0


@pytest.fixture(scope="module")
def photo(star: Bools) -> npt.NDArray[np.uint8]:
    """A star before a mottled ground."""
    ground = np.random.default_rng(0).integers(60, 120, (HEIGHT // 15, WIDTH // 15, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(ground, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    image[star] = (220, 190, 70)
    return image


@pytest.fixture(scope="module")
def encoded(adapter: Adapter, photo: npt.NDArray[np.uint8]) -> Embedding:
    """The photo."""
    return encode_pixels(adapter, photo)


@pytest.fixture
def embedding(encoded: Embedding) -> Embedding:
    """The photo, of which nothing is remembered."""
    return replace(encoded)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each graph has run."""
    counts: Counter[str] = Counter()
    run = Session.run

    def counted(session: Session, feeds: Any, *given: Any) -> Any:
        counts["encoder" if set(feeds) == {"x"} else "decoder"] += 1
        return run(session, feeds, *given)

    monkeypatch.setattr(Session, "run", counted)
    return counts


def boxed(*points: tuple[float, float, int], box: tuple[float, float, float, float] = AROUND) -> Prompt:
    """A box, and clicks as x, y and label."""
    values = np.array(points, np.float64).reshape(-1, 3)
    return Prompt(
        points=values[:, :2].astype(np.float32),
        point_labels=values[:, 2].astype(np.int64),
        boxes=np.array([box], np.float32),
    )


def clicks(*points: tuple[float, float, int]) -> Prompt:
    """Clicks as x, y and label."""
    return replace(boxed(*points), boxes=Prompt().boxes)


def answer(
    adapter: Adapter, embedding: Embedding, prompt: Prompt, mask_input: MaskLogits | None = None
) -> tuple[Bools, MaskLogits]:
    """The one mask of a prompt, at image size, and its logits."""
    (candidate,) = adapter.decode(embedding, prompt, mask_input=mask_input, multimask=False)
    assert candidate.logits is not None
    mask = mask_from_logits(candidate.logits, height=embedding.height, width=embedding.width)
    empty = np.zeros((embedding.height, embedding.width), np.bool_)
    return empty if mask is None else full_array(mask) > 0, candidate.logits


def without_picture(embedding: Embedding) -> Embedding:
    """The same image, of which no window can be shown."""
    return replace(embedding, picture=None)


def test_a_small_object_in_a_large_photo_gains_detail(adapter: Adapter, embedding: Embedding, star: Bools) -> None:
    """The rays of a star of a hundredth of the photo are found better than on the whole image's grid."""
    before, _ = answer(adapter, without_picture(embedding), boxed())
    after, _ = answer(adapter, embedding, boxed())

    assert iou(star, before) + 0.04 < iou(star, after)
    assert 0.85 < iou(star, after)


def test_a_small_object_that_is_clicked_gains_detail(adapter: Adapter, embedding: Embedding, star: Bools) -> None:
    """A click on the star finds its rays as a box does, without a box."""
    before, _ = answer(adapter, without_picture(embedding), clicks((420, 300, 1)))
    after, logits = answer(adapter, embedding, clicks((420, 300, 1)))

    assert logits.detail is not None
    assert iou(star, before) + 0.02 < iou(star, after)
    assert 0.85 < iou(star, after)


def test_the_answer_is_among_the_candidates_of_a_click(adapter: Adapter, embedding: Embedding) -> None:
    """With its detail and its score, whether the one mask or several are asked for."""
    prompt = clicks((420, 300, 1))
    (alone,) = adapter.decode(embedding, prompt, mask_input=None, multimask=False)

    several = adapter.decode(replace(embedding), prompt, mask_input=None, multimask=True)

    assert alone.logits is not None
    (same,) = [item for item in several if item.score == alone.score]
    assert same.logits is not None
    assert same.logits.detail is not None
    assert alone.logits.detail is not None
    np.testing.assert_array_equal(alone.logits.values, same.logits.values)
    np.testing.assert_array_equal(alone.logits.detail.values, same.logits.detail.values)
    assert all(item.logits is not None and item.logits.detail is None for item in several if item is not same)


def test_clicks_stay_in_their_window_until_one_asks_for_more(
    adapter: Adapter, embedding: Embedding, runs: Counter[str]
) -> None:
    """The window is encoded once, at the small size; a click away from the mask is a look at the whole image again."""
    row = [(420, 300, 1), (370, 260, 0), (425, 250, 1), (900, 600, 1)]
    costs, windows = [], []
    for count in (1, 2, 3, 4, 3):
        runs.clear()
        _, logits = answer(adapter, embedding, clicks(*row[:count]))
        costs.append((runs["encoder"], runs["decoder"]))
        windows.append(None if logits.detail is None else logits.detail.window)

    assert [(1, 2), (0, 1), (0, 1), (0, 1), (0, 1)] == costs
    assert windows[0] is not None
    assert [windows[0], windows[0], windows[0], None, windows[0]] == windows


@pytest.mark.parametrize(("x", "stays"), [(780, True), (808, False)])
def test_a_click_in_the_window_but_away_from_the_mask_is_answered_on_the_whole_image_first(
    adapter: Adapter, photo: npt.NDArray[np.uint8], runs: Counter[str], x: int, *, stays: bool
) -> None:
    """A disc from 640 to 760, in a window up to 820: a quarter of the disc farther out is near enough."""
    image = photo.copy()
    cv2.circle(image, (700, 500), 60, (220, 190, 70), cv2.FILLED)
    embedding = encode_pixels(adapter, image)
    _, first = answer(adapter, embedding, clicks((700, 500, 1)))
    runs.clear()

    _, second = answer(adapter, embedding, clicks((700, 500, 1), (x, 500, 1)))

    assert first.detail is not None
    assert x + 1 < first.detail.window[2]
    if stays:
        assert second.detail is not None
        assert (first.detail.window, 1) == (second.detail.window, runs["decoder"])
    else:
        assert second.detail is None or first.detail.window != second.detail.window


def test_a_prompt_has_few_windows(adapter: Adapter, embedding: Embedding, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of clicks of which each leaves the window is answered on the whole image in the end."""
    made: list[Look] = []
    around = SecondLook.around

    def noted(look: SecondLook, *given: Any) -> Look | None:
        found = around(look, *given)
        made.extend([] if found is None else [found])
        return found

    monkeypatch.setattr(SecondLook, "around", noted)
    monkeypatch.setattr(Answer, "is_extended_by", lambda *_: True)
    row = [(420 + 3 * index, 300 + 2 * index, 1) for index in range(8)]
    _, logits = answer(adapter, embedding, clicks(*row))

    assert MOST_WINDOWS_A_PROMPT == len(made)
    assert logits.detail is None


def test_a_click_in_the_last_half_pixel_has_a_window(adapter: Adapter, photo: npt.NDArray[np.uint8]) -> None:
    """Points up to the far edge belong to the image."""
    image = photo.copy()
    cv2.circle(image, (WIDTH - 20, HEIGHT - 20), 50, (220, 190, 70), cv2.FILLED)
    embedding = encode_pixels(adapter, image)

    mask, logits = answer(adapter, embedding, clicks((WIDTH - 0.4, HEIGHT - 0.4, 1)))

    assert logits.detail is not None
    assert mask[HEIGHT - 10, WIDTH - 10]


def test_a_click_far_from_the_mask_is_answered_in_another_window(
    adapter: Adapter, photo: npt.NDArray[np.uint8]
) -> None:
    """Two discs, one after the other: the second click is outside the window, so both are shown by a new one."""
    image = photo.copy()
    for x in (700, 830):
        cv2.circle(image, (x, 600), 50, (220, 190, 70), cv2.FILLED)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    left, right = ((columns - x) ** 2 + (rows - 600) ** 2 <= 50**2 for x in (700, 830))
    embedding = encode_pixels(adapter, image)

    one, first = answer(adapter, embedding, clicks((700, 600, 1)))
    both, second = answer(adapter, embedding, clicks((700, 600, 1), (830, 600, 1)))

    assert first.detail is not None
    assert second.detail is not None
    assert first.detail.window != second.detail.window
    assert 0.9 < iou(left, one)
    assert 0.9 < iou(left | right, both)


def test_a_window_is_encoded_once_for_a_box_and_the_clicks_in_it(
    adapter: Adapter, embedding: Embedding, runs: Counter[str]
) -> None:
    """The box is encoded and decoded at both sizes; afterwards each costs what it does on the whole image."""
    costs = []
    for prompt in (boxed(), boxed((420, 300, 1)), boxed((420, 300, 1), (370, 300, 0)), boxed()):
        runs.clear()
        answer(adapter, embedding, prompt)
        costs.append((runs["encoder"], runs["decoder"]))

    assert [(2, 2), (0, 1), (0, 1), (0, 2)] == costs


def test_what_is_remembered_changes_no_answer(adapter: Adapter, embedding: Embedding) -> None:
    """In whatever order boxes and clicks come, in windows or not, each is answered as if it were the first."""
    prompts = [
        boxed(),
        boxed((420, 300, 1)),
        boxed((420, 300, 1), (370, 300, 0)),
        boxed(box=(100, 500, 300, 700)),
        boxed((900, 600, 0)),
        boxed(box=(100, 100, 1200, 800)),
        clicks((420, 300, 1)),
        clicks((420, 300, 1), (370, 260, 0)),
        clicks((420, 300, 1), (900, 600, 1)),
    ]
    expected = [answer(adapter, replace(embedding), prompt)[0] for prompt in prompts]

    for index in (2, 0, 8, 3, 7, 1, 6, 4, 5, 0, 6, 7, 8, 2, 1):
        np.testing.assert_array_equal(expected[index], answer(adapter, embedding, prompts[index])[0])


@pytest.mark.parametrize(
    "prompt",
    [
        boxed(box=(100, 100, 1200, 800)),
        boxed(box=(0, 0, WIDTH, HEIGHT)),
        boxed((420, 300, 1), (900, 600, 0)),
        clicks((420, 300, 0)),
    ],
    ids=["a large box", "all", "a click elsewhere", "background"],
)
def test_other_prompts_are_answered_on_the_whole_image(adapter: Adapter, embedding: Embedding, prompt: Prompt) -> None:
    """A large box, clicks outside the window and background clicks alone find what they did."""
    mask, logits = answer(adapter, embedding, prompt)

    assert logits.detail is None
    np.testing.assert_array_equal(answer(adapter, without_picture(embedding), prompt)[0], mask)


@pytest.mark.parametrize(
    "box", [(0, 0, 130, 130), (1220, 770, WIDTH, HEIGHT), (0, 400, 3, 403), (600, 0, 760, 40), (700, 400, 700, 400)]
)
def test_a_box_at_the_border_is_answered_in_its_window(
    adapter: Adapter, embedding: Embedding, box: tuple[float, float, float, float]
) -> None:
    """In a corner, at an edge, and of a few pixels or one: nothing is found outside the window."""
    mask, logits = answer(adapter, embedding, boxed(box=box))

    assert logits.detail is not None
    left, top, right, bottom = logits.detail.window
    assert 0 <= left < right <= WIDTH
    assert 0 <= top < bottom <= HEIGHT
    mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1] = False
    assert not mask.any()


def test_a_disc_in_the_corner_is_found(adapter: Adapter, photo: npt.NDArray[np.uint8]) -> None:
    """A window that the image's border cuts is in its place."""
    image = photo.copy()
    cv2.circle(image, (WIDTH - 40, HEIGHT - 30), 60, (220, 190, 70), cv2.FILLED)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    inside = (columns - (WIDTH - 40)) ** 2 + (rows - (HEIGHT - 30)) ** 2 <= 60**2
    prompt = boxed(box=(WIDTH - 100, HEIGHT - 90, WIDTH, HEIGHT))

    mask, _ = answer(adapter, encode_pixels(adapter, image), prompt)

    assert 0.93 < iou(inside, mask)


def test_refining_a_mask_stays_in_its_window(
    adapter: Adapter, embedding: Embedding, star: Bools, runs: Counter[str]
) -> None:
    """A click inside refines the fine mask without the box; one outside the coarse one, on the whole image."""
    _, found = answer(adapter, embedding, boxed())
    click = Prompt(points=np.array([[420, 300]], np.float32), point_labels=np.array([1]))
    runs.clear()

    refined, logits = answer(adapter, embedding, click, found)
    elsewhere = Prompt(points=np.array([[900, 600]], np.float32), point_labels=np.array([0]))
    _, whole = answer(adapter, embedding, elsewhere, found)

    assert (0, 2) == (runs["encoder"], runs["decoder"])
    assert logits.detail is not None
    assert 0.9 < iou(star, refined)
    assert whole.detail is None


def test_refining_what_was_clicked_stays_at_its_size(
    adapter: Adapter, embedding: Embedding, star: Bools, runs: Counter[str]
) -> None:
    """The window is not encoded again, and the finer mask has as many cells as before."""
    _, found = answer(adapter, embedding, clicks((420, 300, 1)))
    runs.clear()

    refined, logits = answer(adapter, embedding, clicks((425, 250, 1)), found)

    assert (0, 1) == (runs["encoder"], runs["decoder"])
    assert found.detail is not None
    assert logits.detail is not None
    assert found.detail.values.shape == logits.detail.values.shape
    assert found.detail.window == logits.detail.window
    assert 0.8 < iou(star, refined)


def test_refining_what_was_clicked_does_not_depend_on_what_is_remembered(
    adapter: Adapter, embedding: Embedding
) -> None:
    """Where a box has the same window, it is remembered at both sizes; the mask is refined at its own."""
    _, found = answer(adapter, embedding, clicks((420, 300, 1)))
    assert found.detail is not None
    assert embedding.picture is not None
    left, top, right, bottom = found.detail.window
    scale_x, scale_y = embedding.picture.columns / WIDTH, embedding.picture.rows / HEIGHT
    grid = grid_of("large", height=round((bottom - top) * scale_y), width=round((right - left) * scale_x))
    boxes = replace(found, detail=Detail(np.full(grid, -1, np.float32), found.detail.window))
    click = clicks((425, 250, 1))
    _, expected = answer(adapter, replace(embedding), click, found)
    _, fine = answer(adapter, embedding, click, boxes)
    _, again = answer(adapter, embedding, click, found)

    assert fine.detail is not None
    assert expected.detail is not None
    assert again.detail is not None
    assert grid == fine.detail.values.shape
    np.testing.assert_array_equal(expected.detail.values, again.detail.values)


def test_threads_share_windows(adapter: Adapter, embedding: Embedding) -> None:
    """Clicks and boxes on two objects at the same time, whose windows take turns, get each its own answer."""
    kinds = [
        clicks((420, 300, 1)),
        clicks((420, 300, 1), (370, 260, 0)),
        boxed(),
        boxed((420, 300, 1)),
        clicks((900, 600, 1)),
        boxed(box=(100, 500, 300, 700)),
    ]
    expected = [answer(adapter, replace(embedding), prompt)[0] for prompt in kinds]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: answer(adapter, embedding, prompt)[0], kinds * 4))

    for index, mask in enumerate(found):
        assert (mask != expected[index % len(kinds)]).mean() < 1e-4


def test_the_logits_of_the_whole_image_are_those_of_the_window(adapter: Adapter, embedding: Embedding) -> None:
    """Who reads only the low-resolution logits gets the usual shape, and the same object."""
    mask, logits = answer(adapter, embedding, boxed())
    usual = answer(adapter, without_picture(embedding), boxed())[1]

    coarse = mask_from_logits(replace(logits, detail=None), height=HEIGHT, width=WIDTH)

    assert usual.values.shape == logits.values.shape
    assert (usual.valid_height, usual.valid_width) == (logits.valid_height, logits.valid_width)
    assert coarse is not None
    assert 0.7 < iou(mask, full_array(coarse) > 0)
    assert logits.detail is not None
    assert logits.values.nbytes + logits.detail.values.nbytes == logits.nbytes


def test_few_windows_are_remembered(adapter: Adapter, embedding: Embedding, runs: Counter[str]) -> None:
    """Windows take memory that no cache counts: those of the images used last are kept."""
    images = [replace(embedding) for _ in range(MOST_WINDOWS + 1)]
    for image in images:
        answer(adapter, image, boxed())
    runs.clear()

    for image in reversed(images):
        answer(adapter, image, boxed((420, 300, 1)))

    assert 2 == runs["encoder"]


def test_the_window_used_last_is_forgotten_last(adapter: Adapter, embedding: Embedding, runs: Counter[str]) -> None:
    """Clicks keep a window, however long ago it was encoded."""
    images = [replace(embedding) for _ in range(MOST_WINDOWS + 1)]
    for image in images[:-1]:
        answer(adapter, image, boxed())
    click = boxed((420, 300, 1))
    answer(adapter, images[0], click)
    answer(adapter, images[-1], boxed())
    runs.clear()

    answer(adapter, images[0], click)

    assert 0 == runs["encoder"]


def test_windows_of_one_image_are_remembered_together(
    adapter: Adapter, embedding: Embedding, runs: Counter[str]
) -> None:
    """Several small objects of a photo may take turns, or be asked for at the same time."""
    corners = [(x, 500, x + 100, 600) for x in range(100, 100 + 60 * MOST_WINDOWS, 60)]
    prompts = [boxed(box=box) for box in corners]
    for prompt in prompts:
        answer(adapter, embedding, prompt)
    runs.clear()

    for prompt in prompts:
        answer(adapter, embedding, prompt)

    assert 0 == runs["encoder"]


def test_who_has_most_windows_loses_the_oldest(adapter: Adapter, embedding: Embedding, runs: Counter[str]) -> None:
    """One photo's many small objects leave those of other people their windows."""
    other = replace(embedding)
    boxes = [boxed(box=(x, 500, x + 100, 600)) for x in range(100, 100 + 60 * (MOST_WINDOWS + 2), 60)]
    for prompt in boxes[:MOST_WINDOWS]:
        answer(adapter, embedding, prompt)
    answer(adapter, other, boxes[0])
    for prompt in boxes[MOST_WINDOWS:]:
        answer(adapter, embedding, prompt)
    runs.clear()

    for image, prompt in ((other, boxes[0]), *((embedding, prompt) for prompt in boxes[3:])):
        answer(adapter, image, prompt)
    assert 0 == runs["encoder"]
    answer(adapter, embedding, boxes[2])

    assert 2 == runs["encoder"]
