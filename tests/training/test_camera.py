import numpy as np
import pytest
from training.camera import Camera, FloatArray, blurred, moved
from training.dice import Dice
from training.held import Hands
from training.layers import Layer
from training.shadows import Shadows
from training.stage import Paster, Stage


@pytest.fixture
def dice() -> Dice:
    """The same chances each time."""
    return Dice(np.random.default_rng(3))


def square(side: int = 24, margin: int = 16) -> tuple[FloatArray, FloatArray]:
    """A white square with room around it: premultiplied colour and alpha."""
    alpha = np.zeros((side + 2 * margin, side + 2 * margin, 1), np.float32)
    alpha[margin : margin + side, margin : margin + side] = 1
    return np.repeat(255 * alpha, 3, 2), alpha


@pytest.mark.parametrize("length", [2.0, 7.5, 20.0])
@pytest.mark.parametrize("angle", [0.0, 0.8, 1.57])
def test_motion_keeps_what_there_is_and_spreads_it_along_the_path(length: float, angle: float) -> None:
    """Light is neither made nor lost, and a dot becomes a line of the path's length and direction."""
    dot = np.zeros((61, 61, 1), np.float32)
    dot[30, 30] = 1

    smeared = moved(dot, length, angle)

    assert smeared.sum() == pytest.approx(1, abs=1e-4)
    y, x, _ = np.nonzero(smeared > 1e-4)
    assert np.ptp(x) == pytest.approx(length * np.cos(angle), abs=5)
    assert np.ptp(y) == pytest.approx(length * np.sin(angle), abs=5)


def test_the_edge_of_what_is_blurred_stays_where_it_was() -> None:
    """Alpha above one half is as wide as before, so masks neither grow nor shrink by blur."""
    _, alpha = square()

    for soft in (blurred(alpha, 3), moved(alpha, 10, 0)):
        assert (soft > 0.5).any(2).sum() == pytest.approx((alpha > 0.5).sum(), rel=0.1)


def test_the_ground_darkens_under_a_shadow_and_the_object_is_no_larger(dice: Dice) -> None:
    """What falls on the ground is seen beside the object and is not in its mask."""
    colour, alpha = square()
    layer = Layer("photo", colour, alpha, [])
    shaded = 0
    for _ in range(40):
        stage = Stage(np.full((120, 160, 3), 200, np.float32), np.zeros((120, 160), np.uint8))
        whole = Paster(dice).paste(stage, layer, (80.0, 50.0), 1.0)

        mask = stage.mask(whole)
        assert mask.sum() == 24 * 24
        shaded += bool((stage.canvas[~mask] < 190).any())

    assert 10 < shaded


def test_shadows_and_reflections_begin_at_the_foot(dice: Dice) -> None:
    """Something is drawn now and then, and never far above what stands there."""
    colour, alpha = square()
    drawn = 0
    for _ in range(60):
        canvas = np.full((200, 200, 3), 200, np.float32)
        Shadows(dice).draw(canvas, colour, alpha, 70, 40)
        changed = np.asarray(np.abs(canvas - 200).max(2) > 2)
        drawn += bool(changed.any())
        # Its foot is in row 40 + 16 + 23.
        assert not changed[: 79 - 24].any()

    assert 5 < drawn


def test_what_is_held_adds_to_its_holder(dice: Dice) -> None:
    """The holder stays as it is, on more room, and the thing is a part of what is opaque then."""
    hands = Hands(dice, lambda rows, columns: np.full((rows, columns, 3), 90, np.uint8))
    for _ in range(25):
        colour, alpha = square(60)
        part = alpha[..., 0] > 0.5

        wider, cover, parts, held = hands.fill(colour, alpha, [part])

        assert held is not None
        assert wider.shape[:2] == cover.shape[:2] == held.shape == parts[0].shape
        assert (cover[held] > 0.5).all()
        assert parts[0].sum() == part.sum()
        assert (np.maximum(cover[..., 0] > 0.5, parts[0]) == (cover[..., 0] > 0.5)).all()
        assert wider.max() <= 256


def test_targets_are_the_holder_with_its_thing_and_without(dice: Dice) -> None:
    """Both together weigh most, and the thing alone is asked for where it is large enough."""
    colour, alpha = square(40)
    held = np.zeros(alpha.shape[:2], np.bool_)
    held[16:26, 16:56] = True
    stage = Stage(np.full((100, 100, 3), 50, np.float32), np.zeros((100, 100), np.uint8))

    whole = Paster(dice).paste(stage, Layer("photo", colour, alpha, [], held), (50.0, 50.0), 2.0)

    weights = {int(stage.mask(target.layers).sum()): target.weight for target in stage.targets}
    assert stage.mask(whole).sum() == 1600
    assert weights == {1600: 2.0, 1200: pytest.approx(0.6), 400: 0.25}


def test_a_picture_keeps_its_shape_through_every_camera(dice: Dice) -> None:
    """Dark, hazy, noisy, packed: (H, W, 3) uint8 in the end."""
    noise = np.random.default_rng(0).standard_normal((800, 800, 3)).astype(np.float32)
    camera = Camera(dice, noise)
    for _ in range(60):
        canvas = camera.surroundings(np.full((71, 93, 3), 120, np.float32), is_outlined=False)
        camera.sprayed(canvas, 20, 60, 30, 60)
        image = camera.developed(canvas)

        assert image.shape == (71, 93, 3)
        assert image.dtype == np.uint8
