"""The grid of everything mode, and which masks are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osamd.pixels.everything import Everything
from osamd.pixels.proposals import Click, Search, box_ious, grid, stability, suppressed
from osamd.types import MaskLogits
from osamd.wire.replies import finish

SIDE = 40
SEED = st.integers(0, 10**6)


def square(x: int, y: int, size: int, *, height: float = 5.0) -> MaskLogits:
    """Logits of a square: ``height`` inside, -5 outside."""
    values = np.full((SIDE, SIDE), -5.0, np.float32)
    values[y : y + size, x : x + size] = height
    return MaskLogits(values, valid_height=SIDE, valid_width=SIDE)


def search(**parameters: object) -> Search:
    """A search on an image of the logits' size, with thresholds that all masks pass."""
    defaults = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    return Search(Everything(**(defaults | parameters)), height=SIDE, width=SIDE)  # type: ignore[arg-type]


HERE = Click(0.5, 0.5, 0.25)


@settings(max_examples=25)
@given(st.integers(1, 64))
def test_grid_is_the_papers_in_another_order(count: int) -> None:
    """Every point of ``(i + 0.5) / n``, once; the levels go from coarse to fine."""
    clicks = grid(count)
    places = {(click.x * count - 0.5, click.y * count - 0.5) for click in clicks}
    assert np.allclose(sorted(places), [(x, y) for x in range(count) for y in range(count)])
    assert len(clicks) == count * count
    spacings = [click.spacing for click in clicks]
    assert spacings == sorted(spacings, reverse=True)


def test_first_level_covers_the_image() -> None:
    """Of 16 x 16 points, the first are a grid of 4 x 4."""
    first = {(click.x, click.y) for click in grid(16)[:16]}
    assert {x for x, _ in first} == {y for _, y in first}
    assert sorted(x for x, y in first if y == min(y for _, y in first)) == [2.5 / 16, 6.5 / 16, 10.5 / 16, 14.5 / 16]


def test_stability_is_the_iou_of_two_thresholds() -> None:
    """Nested masks, so the ratio of their areas."""
    values = np.array([[3.0, 0.5, -0.5, -3.0]], np.float32)
    assert stability(values, 0.0, 1.0) == pytest.approx(1 / 3)
    assert stability(values, 0.0, 0.0) == 1.0
    assert stability(values, 5.0, 1.0) == 0.0


@settings(max_examples=25)
@given(SEED)
def test_suppression_keeps_what_no_better_kept_box_overlaps(seed: int) -> None:
    """Non-maximum suppression, as its definition says it."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 1, (20, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0.1, 1, (20, 2))], axis=1).astype(np.float32)
    scores = random.integers(0, 5, 20).astype(np.float32)
    out = finish(suppressed(boxes, scores, 0.3))
    for index in range(20):
        rivals = [
            other
            for other in range(20)
            if (scores[other], -other) > (scores[index], -index)
            and box_ious(boxes[index], boxes[other : other + 1]) > 0.3
        ]
        assert out[index] == any(not out[other] for other in rivals)


def test_thresholds() -> None:
    """A mask below any of them is not kept."""
    assert search(pred_iou_thresh=0.8).offer(HERE, 0, square(0, 0, 10), 0.79).number is None
    assert search(stability_score_thresh=0.8).offer(HERE, 0, square(0, 0, 10, height=0.5), 1.0).number is None
    assert search(min_mask_region_area=100).offer(HERE, 0, square(0, 0, 10), 1.0).number is None
    assert search(min_mask_region_area=99).offer(HERE, 0, square(0, 0, 10), 1.0).number == 0
    assert search().offer(HERE, 0, square(0, 0, 0), 1.0).number is None


def test_a_better_mask_of_the_same_object_replaces() -> None:
    """A worse one does not; other objects stay."""
    plan = search()
    assert plan.offer(HERE, 0, square(0, 0, 10), 0.5).number == 0
    assert plan.offer(HERE, 1, square(20, 20, 10), 0.5).number == 1
    assert plan.offer(HERE, 2, square(0, 0, 10), 0.5).number is None
    offer = plan.offer(HERE, 0, square(0, 0, 9), 0.6)
    assert (offer.number, offer.dropped) == (2, (0,))
    assert plan.progress.masks == 2


def test_explained_points_are_skipped() -> None:
    """Points on a mask of a few cells, but not those on a large one, which may have parts."""
    plan = search(points_per_side=8)
    first = plan.take(1)[0]
    plan.offer(first, 0, square(0, 0, 9), 0.9)
    plan.offer(first, 0, square(20, 0, 40), 0.9)
    places = [(click.x * SIDE, click.y * SIDE) for click in plan.take(64)]
    assert not [(x, y) for x, y in places if x < 9 and y < 9]
    assert [(x, y) for x, y in places if x > 20]
    everywhere = search(points_per_side=8, skip_explained=False)
    everywhere.offer(everywhere.take(1)[0], 0, square(0, 0, 9), 0.9)
    assert len(everywhere.take(64)) == 63


@settings(max_examples=25)
@given(SEED)
def test_settled_it_is_the_suppression_of_all_at_once(seed: int) -> None:
    """Whatever the order in which masks come, after ``settle`` and ``revive`` the kept ones are the same."""
    random = np.random.default_rng(seed)
    places = random.integers((0, 0, 8), (12, 12, 16), (15, 3)).tolist()
    masks = [square(x, y, size) for x, y, size in places]
    scores = random.permutation(15) / 15
    plan = search(box_nms_thresh=0.437)
    kept: dict[int, int] = {}
    clicks = [Click(index / 15, 0.5, 0.1) for index in range(15)]
    for index, (mask, score) in enumerate(zip(masks, scores, strict=True)):
        offer = plan.offer(clicks[index], 0, mask, float(score))
        for number in offer.dropped:
            del kept[number]
        if offer.number is not None:
            kept[offer.number] = index
    revived, dropped = finish(plan.settle())
    for number in dropped:
        del kept[number]
    for click, rank in revived:
        index = clicks.index(click)
        revived_as = plan.revive(click, rank, masks[index]).number
        assert revived_as is not None
        kept[revived_as] = index
    corners = [np.argwhere(mask.values > 0) for mask in masks]
    boxes = np.array([[*place.min(0)[::-1], *place.max(0)[::-1] + 1] for place in corners], np.float32)
    out = finish(suppressed(boxes, scores.astype(np.float32), 0.437))
    assert sorted(kept.values()) == np.flatnonzero(~out).tolist()
    assert finish(plan.settle()) == ([], [])
