import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import iou
from PIL import Image

from osamd.errors import InferenceError, ModelLoadError
from osamd.library.catalog import load_catalog
from osamd.library.store import Store
from osamd.models import build_model
from osamd.models.base import Adapter, Proposer, encode_pixels
from osamd.models.builtin import TEMPERATURE
from osamd.models.builtin_tensors import AREAS, FEATURES
from osamd.pixels.masks import full_array, mask_from_logits
from osamd.runtime.sessions import CPU, Placement, Session
from osamd.types import Capabilities, Embedding, MaskLogits, Prompt

Bools = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
GROUND, BRIGHT, DULL = (60, 60, 60), (230, 210, 60), (150, 130, 60)
MODEL = load_catalog().resolve("builtin")


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """The packaged weights on the CPU."""
    return build_model(MODEL, Store(Path("nowhere")).paths(MODEL), Placement((CPU,), 2))


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_features_have_the_shapes_that_are_told(adapter: Adapter, height: int, width: int) -> None:
    """An embedding that a caller sends is compared with them."""
    embedding = encode_pixels(adapter, np.zeros((height, width, 3), np.uint8))
    told = adapter.feature_shapes(height=height, width=width)
    assert list(told.items()) == [(name, values.shape) for name, values in embedding.features.items()]


def disc(height: int, width: int, x: float, y: float, radius: float) -> Bools:
    """Where a disc is."""
    rows, columns = np.ogrid[:height, :width]
    inside: Bools = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def painted(*parts: tuple[Bools, tuple[int, int, int]]) -> Pixels:
    """Shapes in their colours on grey ground."""
    image = np.full((*parts[0][0].shape, 3), GROUND, np.uint8)
    for inside, color in parts:
        image[inside] = color
    return image


def clicks(*points: tuple[float, float, int]) -> Prompt:
    """Points as x, y and label."""
    values = np.array(points, np.float64).reshape(-1, 3)
    return Prompt(points=values[:, :2].astype(np.float32), point_labels=values[:, 2].astype(np.int64))


def box(x1: float, y1: float, x2: float, y2: float, *points: tuple[float, float, int]) -> Prompt:
    """A box, and points beside it."""
    return replace(clicks(*points), boxes=np.array([[x1, y1, x2, y2]], np.float32))


def answer(
    adapter: Adapter, embedding: Embedding, prompt: Prompt, mask_input: MaskLogits | None = None
) -> tuple[Bools, MaskLogits]:
    """The one mask of a prompt, at image size, and its logits."""
    (candidate,) = adapter.decode(embedding, prompt, mask_input=mask_input, multimask=False)
    assert candidate.logits is not None
    mask = mask_from_logits(candidate.logits, height=embedding.height, width=embedding.width)
    empty = np.zeros((embedding.height, embedding.width), np.bool_)
    return empty if mask is None else full_array(mask) > 0, candidate.logits


def test_capabilities(adapter: Adapter) -> None:
    """Points, one box, a mask to refine and candidates; no words; on the device it was put on."""
    assert Capabilities(points=True, boxes=1, mask_input=True, multimask=True) == adapter.capabilities
    assert "points, one box, a mask to refine" == adapter.capabilities.sentence()
    assert "cpu" == adapter.device


@settings(deadline=None, max_examples=25)
@given(data=st.data(), width=st.integers(100, 1000), ratio=st.floats(0.4, 2.5))
def test_a_click_or_a_box_finds_the_disc_wherever_it_is(
    adapter: Adapter, data: st.DataObject, width: int, ratio: float
) -> None:
    """At any place, size and aspect ratio the mask lies on the disc: coordinates are in the image's own frame."""
    height = min(1400, max(100, round(width * ratio)))
    shorter = min(height, width)
    radius = data.draw(st.floats(0.13, 0.35)) * shorter
    x, y = data.draw(st.floats(radius, width - radius)), data.draw(st.floats(radius, height - radius))
    aside = data.draw(st.floats(-0.35, 0.35)) * radius
    inside = disc(height, width, x, y, radius)
    embedding = encode_pixels(adapter, painted((inside, BRIGHT)))

    by_click, _ = answer(adapter, embedding, clicks((x + aside, y - aside, 1)))
    by_box, _ = answer(adapter, embedding, box(x - radius, y - radius, x + radius, y + radius))

    assert 0.9 < iou(inside, by_click)
    assert 0.9 < iou(inside, by_box)


def test_the_default_prompt_is_a_click_in_the_middle(adapter: Adapter) -> None:
    """What is in the middle is found when nothing is said."""
    inside = disc(120, 200, 100, 60, 30)
    embedding = encode_pixels(adapter, painted((inside, BRIGHT)))

    mask, _ = answer(adapter, embedding, adapter.default_prompt(height=120, width=200))

    assert 0.9 < iou(inside, mask)


LEFT, RIGHT = disc(240, 360, 110, 120, 50), disc(240, 360, 214, 120, 50)


@pytest.fixture(scope="module")
def two_discs(adapter: Adapter) -> Embedding:
    """A bright disc on the left, a duller one on the right, a thin gap between them."""
    return encode_pixels(adapter, painted((LEFT, BRIGHT), (RIGHT, DULL)))


def test_more_clicks_add_objects(adapter: Adapter, two_discs: Embedding) -> None:
    """One click finds one disc, a second click on the other finds both."""
    one, _ = answer(adapter, two_discs, clicks((110, 120, 1)))
    both, _ = answer(adapter, two_discs, clicks((110, 120, 1), (214, 120, 1)))

    assert 0.9 < iou(LEFT, one)
    assert 0.9 < iou(LEFT | RIGHT, both)


def test_a_negative_click_removes(adapter: Adapter, two_discs: Embedding) -> None:
    """A box around both discs: a background click on one takes most of it away, a second one the rest."""
    around = (60.0, 70.0, 264.0, 170.0)
    both, _ = answer(adapter, two_discs, box(*around))
    less, _ = answer(adapter, two_discs, box(*around, (214, 120, 0)))
    left, _ = answer(adapter, two_discs, box(*around, (214, 120, 0), (200, 120, 0)))

    assert 0.9 < iou(LEFT | RIGHT, both)
    assert (less & RIGHT).sum() < 0.5 * RIGHT.sum()
    assert not less[120, 214]
    assert 0.9 < iou(LEFT, left)


def test_background_clicks_alone_find_nothing(adapter: Adapter) -> None:
    """Also on a photo in which the network, never taught that, would have a guess."""
    photo = Path(__file__).parents[2] / "examples" / "cat.jpg"
    embedding = encode_pixels(adapter, np.asarray(Image.open(photo).convert("RGB")))
    everywhere = [clicks((x, y, 0)) for y in range(10, 300, 56) for x in range(10, 451, 88)]
    for prompt in (clicks((225, 150, 0)), clicks((20, 20, 0)), clicks((225, 150, 0), (20, 20, 0)), *everywhere):
        mask, _ = answer(adapter, embedding, prompt)
        assert not mask.any()


def test_a_mask_to_refine_changes_the_answer(adapter: Adapter) -> None:
    """The earlier mask counts: the same click with its own mask gives it again, with the opposite one it does not."""
    inside = disc(240, 360, 110, 120, 50)
    embedding = encode_pixels(adapter, painted((inside, BRIGHT)))
    mask, logits = answer(adapter, embedding, clicks((110, 120, 1)))
    again, _ = answer(adapter, embedding, clicks((110, 120, 1)), logits)
    opposite, _ = answer(adapter, embedding, clicks((110, 120, 1)), replace(logits, values=-logits.values))

    assert 0.95 < iou(mask, again)
    assert iou(mask, opposite) < 0.7


def test_only_the_clicked_part_stays(adapter: Adapter) -> None:
    """Whatever else the network would take over from an earlier mask, parts without a click go; a box keeps them."""
    left, right = disc(240, 360, 80, 120, 45), disc(240, 360, 270, 120, 45)
    embedding = encode_pixels(adapter, painted((left, BRIGHT), (right, BRIGHT)))
    _, both = answer(adapter, embedding, clicks((80, 120, 1), (270, 120, 1)))

    clicked, _ = answer(adapter, embedding, clicks((270, 120, 1)), both)
    boxed, _ = answer(adapter, embedding, box(35, 75, 315, 165), both)

    assert 0.9 < iou(right, clicked)
    assert 0.9 < iou(left | right, boxed)


def test_answer_does_not_depend_on_earlier_prompts(adapter: Adapter) -> None:
    """What is remembered between clicks makes them quicker, not different."""
    image = painted((LEFT, BRIGHT), (RIGHT, DULL))
    prompts = [
        clicks((110, 120, 1)),
        clicks((214, 120, 1)),
        box(60, 70, 160, 170),
        box(164, 70, 264, 170),
        clicks((110, 120, 1), (214, 120, 1)),
        clicks((110, 120, 1), (214, 120, 1), (165, 40, 0)),
        box(60, 70, 264, 170, (214, 120, 0), (110, 120, 1)),
    ]
    expected = [answer(adapter, encode_pixels(adapter, image), prompt)[1].values for prompt in prompts]
    embedding = encode_pixels(adapter, image)

    for index in (3, 2, 6, 1, 0, 4, 5, 4, 0, 5, 0, 3, 6, 1):
        np.testing.assert_array_equal(expected[index], answer(adapter, embedding, prompts[index])[1].values)


def test_decoder_runs_once_per_new_click(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further click costs one decoder run; several clicks at once cost one run each, up to 16."""
    image = painted((LEFT, BRIGHT), (RIGHT, DULL))
    many = [(110 + 3 * number, 100 + 2 * number, 1) for number in range(25)]
    passes: list[str] = []
    run = Session.run

    def counted(*given: Any, **named: Any) -> Any:
        passes.append("a pass")
        return run(*given, **named)

    monkeypatch.setattr(Session, "run", counted)

    def cost(embedding: Embedding, count: int) -> int:
        passes.clear()
        answer(adapter, embedding, clicks(*many[:count]))
        return len(passes)

    embedding = encode_pixels(adapter, image)
    assert [2, 1, 1, 1] == [cost(embedding, count) for count in (1, 2, 3, 4)]
    assert 1 == cost(embedding, 3)
    assert [4, 17, 17] == [cost(encode_pixels(adapter, image), count) for count in (3, 16, 25)]


@pytest.mark.parametrize("what", ["a click", "a background click", "two clicks", "a box"])
def test_a_lone_click_is_looked_at_again_with_all_that_it_may_mean(
    adapter: Adapter, two_discs: Embedding, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The mean of the first look's masks, weighted by their scores, is the input of the second; else the first mask."""
    prompt = {
        "a click": clicks((110, 120, 1)),
        "a background click": clicks((110, 120, 0)),
        "two clicks": clicks((60, 40, 0), (110, 120, 1)),
        "a box": box(60, 70, 160, 170),
    }[what]
    looks: list[tuple[Any, Any]] = []
    run = Session.run

    def noted(session: Session, feeds: Any, names: Any) -> Any:
        looks.append((feeds, dict(zip(names, run(session, feeds, ["logits", "iou"]), strict=False))))
        return run(session, feeds, names)

    monkeypatch.setattr(Session, "run", noted)
    answer(adapter, replace(two_discs), prompt)
    (_, first), (second, _) = looks
    shares = 1 / (1 + np.exp(-first["logits"][0].astype(np.float64)))
    if what == "a click":
        weights = np.exp(first["iou"][0] / TEMPERATURE)
        expected = (shares * weights[:, None, None]).sum(0) / weights.sum()
        assert np.abs(expected - shares[0]).max() > 0.02
    else:
        expected = shares[0]
    expected = cv2.resize(expected, second["maps"].shape[:1:-1])

    assert np.abs(second["maps"][0, 1] - expected).max() < 0.01


def test_clear_object_has_a_high_predicted_iou(adapter: Adapter, two_discs: Embedding) -> None:
    """The predicted IoU is high where the mask is right, and lower for a click on nothing in particular."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 360, 3)).astype(np.uint8)

    def score(embedding: Embedding) -> float:
        (candidate,) = adapter.decode(embedding, clicks((110, 120, 1)), mask_input=None, multimask=False)
        assert candidate.score is not None
        return candidate.score

    assert 0.8 < score(two_discs) <= 1
    assert score(encode_pixels(adapter, noise)) < score(two_discs) - 0.1


def test_single_click_has_candidates(adapter: Adapter) -> None:
    """A click on the pupil of an eye: up to three masks that differ, the best score first, the one mask among them.

    Other prompts have one.
    """
    white, pupil = disc(240, 360, 180, 120, 90), disc(240, 360, 180, 120, 40)
    embedding = encode_pixels(adapter, painted((white, BRIGHT), (pupil, (40, 20, 120))))

    found = adapter.decode(embedding, clicks((180, 120, 1)), mask_input=None, multimask=True)
    masks = []
    for candidate in found:
        assert candidate.logits is not None
        mask = mask_from_logits(candidate.logits, height=240, width=360)
        assert mask is not None
        masks.append(full_array(mask) > 0)

    assert 2 <= len(found) <= 3
    assert sorted((candidate.score or 0 for candidate in found), reverse=True) == [item.score for item in found]
    assert 0.85 < max(iou(mask, pupil) for mask in masks)
    assert 0.85 < max(iou(mask, white) for mask in masks)
    assert all(iou(one, other) < 0.95 for one, other in itertools.combinations(masks, 2))
    (alone,) = adapter.decode(embedding, clicks((180, 120, 1)), mask_input=None, multimask=False)
    assert 1 == sum(candidate.score == alone.score for candidate in found)
    for prompt in (clicks((180, 120, 1), (100, 120, 1)), clicks((5, 5, 0)), box(90, 30, 270, 210), Prompt()):
        assert 1 == len(adapter.decode(embedding, prompt, mask_input=None, multimask=True))


def test_threads_may_share_the_adapter_and_the_embedding(adapter: Adapter, two_discs: Embedding) -> None:
    """What is decoded at the same time gets each its own answer, also where one thread remembers what another uses."""
    first, second, third = (110, 120, 1), (214, 120, 1), (165, 40, 0)
    kinds = [clicks(first), clicks(second), clicks(first, second), clicks(first, second, third), clicks(second, third)]
    expected = [answer(adapter, two_discs, prompt)[1].values for prompt in kinds]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: answer(adapter, two_discs, prompt)[1].values, kinds * 8))

    for index, values in enumerate(found):
        np.testing.assert_allclose(expected[index % len(kinds)], values, atol=1e-3)


def test_the_embedding_is_named_and_counted(adapter: Adapter) -> None:
    """Features by working size and name, each float of one image, and all bytes as the cache counts them."""
    embedding = encode_pixels(adapter, painted((disc(300, 450, 100, 100, 40), BRIGHT)))

    assert (300, 450) == (embedding.height, embedding.width)
    assert {f"{size}.{name}" for size in AREAS for name in FEATURES} == set(embedding.features)
    assert {(4, 1)} == {(feature.ndim, feature.shape[0]) for feature in embedding.features.values()}
    assert embedding.picture is not None
    features = sum(feature.nbytes for feature in embedding.features.values())
    assert features + embedding.picture.jpeg.nbytes == embedding.nbytes
    assert 3_000_000 < embedding.nbytes < 4_000_000


def test_a_large_image_costs_no_more_than_a_small_one(adapter: Adapter) -> None:
    """Twenty-four million pixels become an embedding of the usual size, and the click still finds the disc."""
    height, width = 4000, 6000
    inside = disc(height, width, 4100, 1500, 700)
    embedding = encode_pixels(adapter, painted((inside, BRIGHT)))

    mask, _ = answer(adapter, embedding, clicks((4100, 1500, 1)))

    assert embedding.nbytes < 4_000_000
    assert 0.95 < iou(inside, mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 7000), (1, 5000), (5000, 1), (31, 33)])
def test_tiny_and_extreme_images_are_answered(adapter: Adapter, size: tuple[int, int]) -> None:
    """One pixel, one row or one column: some mask of the image's size, and no crash, for every kind of prompt."""
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    embedding = encode_pixels(adapter, image)

    for prompt in (
        adapter.default_prompt(height=height, width=width),
        clicks((0, 0, 1), (width - 1, height - 1, 0)),
        clicks((0, 0, 0)),
        box(0, 0, width, height),
        box(width - 1, height - 1, width - 1, height - 1),
        Prompt(),
    ):
        mask, logits = answer(adapter, embedding, prompt)
        assert size == mask.shape
        assert np.isfinite(logits.values).all()
    assert embedding.nbytes < 5_000_000


def test_a_broken_graph_does_not_load(tmp_path: Path) -> None:
    """Bytes that are no ONNX graph are a load error, not a crash."""
    paths = {"encoder": tmp_path / "encoder.onnx", "decoder": tmp_path / "decoder.onnx"}
    for path in paths.values():
        path.write_bytes(b"no graph")

    with pytest.raises(ModelLoadError, match="failed to load"):
        build_model(MODEL, paths, Placement((CPU,), 1))


def test_features_of_another_shape_are_an_inference_error(adapter: Adapter, two_discs: Embedding) -> None:
    """What ONNX Runtime refuses comes out as an error of the tree."""
    wrong = {name: feature[:, :1] for name, feature in two_discs.features.items()}

    with pytest.raises(InferenceError):
        adapter.decode(replace(two_discs, features=wrong), clicks((1, 1, 1)), mask_input=None, multimask=False)


def test_proposals_are_fast_drafts_best_first(adapter: Adapter) -> None:
    """One run at the small working size, on the grid that refined masks have; the best is the disc."""
    inside = disc(200, 300, 150, 100, 50)
    embedding = encode_pixels(adapter, painted((inside, BRIGHT)))
    assert isinstance(adapter, Proposer)
    found = adapter.propose(embedding, clicks((150, 100, 1)))
    scores = [candidate.score or 0.0 for candidate in found]
    assert scores == sorted(scores, reverse=True)
    best = found[0].logits
    assert best is not None
    (refined,) = adapter.decode(embedding, clicks((150, 100, 1)), mask_input=best, multimask=False)
    assert refined.logits is not None
    assert best.values.shape == refined.logits.values.shape
    mask = mask_from_logits(best, height=200, width=300)
    assert mask is not None
    assert iou(full_array(mask) > 0, inside) > 0.85


def test_prompts_of_one_run_do_not_affect_each_other(two_discs: Embedding) -> None:
    """The decoder's graph takes several prompts at once, padded to as many points: the same bits as one by one."""
    decoder = Session(Store(Path("nowhere")).paths(MODEL)["decoder"], Placement((CPU,), 1))
    features = {name: two_discs.features[f"small.{name}"] for name in FEATURES}
    padding = [0.0, 0.0, -1.0]
    rows = [[[0.3, 0.5, 1.0], padding], [[0.6, 0.5, 1.0], [0.3, 0.5, 0.0]], [padding, padding]]
    points = np.array(rows, np.float32)
    maps = np.zeros((3, 2, *features["p4"].shape[2:]), np.float32)
    maps[2, 0, 10:40, 10:40] = 1

    together = decoder.run({**features, "pts": points, "maps": maps}, ["logits", "iou"])

    counts = (1, 2, 1)
    alone = [
        decoder.run({**features, "pts": points[k : k + 1, :count], "maps": maps[k : k + 1]}, ["logits", "iou"])
        for k, count in enumerate(counts)
    ]
    for place, values in enumerate(together):
        np.testing.assert_allclose(values, np.concatenate([one[place] for one in alone]), atol=1e-5)
    assert np.ptp(together[0], axis=0).max() > 1
