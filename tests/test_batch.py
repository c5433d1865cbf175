"""Many images without a server: ``osamd.batch.Segmenter`` and the example that uses it."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import WIDTH, picture
from pictures import disc_picture, encoded
from PIL import Image
from serving import clean_environment
from waiting import WAIT_S

from osamd.batch import Segmenter
from osamd.errors import InvalidImageError, InvalidPromptError, UnknownModelError
from osamd.pixels import decoder
from osamd.pixels.everything import Everything, Proposal
from osamd.types import Prompt

ROOT = Path(__file__).resolve().parents[1]
CLICK = {"points": [[70, 50]], "point_labels": [1]}


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    """The built-in model, in an environment that sets limits for a server's clients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSAMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        for limit in (
            "ENCODES_PER_MINUTE",
            "REQUESTS_PER_MINUTE",
            "CONCURRENT_REQUESTS",
            "ENCODE_QUEUE",
            "DECODE_QUEUE",
        ):
            patch.setenv(f"OSAMD_{limit}", "1")
        with Segmenter(threads=1) as opened:
            yield opened


def test_every_kind_of_image_gives_the_same_mask(segment: Segmenter, tmp_path: Path) -> None:
    """A path, bytes, an array and a Pillow image of one picture, all with masks of the image's size."""
    disc = disc_picture()
    data = encoded(disc)
    (tmp_path / "disc.png").write_bytes(data)
    images: list[Any] = [tmp_path / "disc.png", str(tmp_path / "disc.png"), data, np.asarray(disc.convert("RGB")), disc]

    results = segment(images, [CLICK] * len(images))

    for result in results:
        assert (1, disc.height, disc.width) == result.masks.shape
        assert np.bool_ == result.masks.dtype
        np.testing.assert_array_equal(results[0].masks, result.masks)
        (xmin, ymin, xmax, ymax) = result.boxes[0]
        assert result.masks[0, ymin, xmin : xmax + 1].any()
        assert result.masks[0, ymin : ymax + 1, xmax].any()
        assert 0 <= result.scores[0] <= 1
        assert np.float32 == result.scores.dtype


def test_many_images_are_answered_in_order(segment: Segmenter) -> None:
    """More images than any queue holds are read from an iterator a few at a time, without overload errors."""

    def images() -> Iterator[bytes]:
        for number in range(20):
            yield picture(number, width=WIDTH + number)

    results = segment(images())

    assert [WIDTH + number for number in range(20)] == [result.width for result in results]
    assert all(result.error is None for result in results)


def test_unusable_image_fails_only_its_own_result(segment: Segmenter, tmp_path: Path) -> None:
    """Its result has the error, and raises it when its arrays are accessed."""
    outside = {"points": [[1000, 5]], "point_labels": [1]}
    misspelt = {"point": [[5, 5]]}
    cut = tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    images: list[Any] = [
        b"no image",
        tmp_path / "missing.jpg",
        np.zeros((4, 4), np.uint8),
        picture(),
        picture(),
        picture(),
        3,
        Image.open(cut),
    ]
    asked = [None, None, None, outside, misspelt, CLICK | {"points": [[5, 5]]}, None, None]

    results = segment(images, asked)

    kinds = [type(result.error) for result in results]
    images[-1].close()
    assert [InvalidImageError] * 3 + [InvalidPromptError] * 2 + [type(None)] + [InvalidImageError] * 2 == kinds
    assert "(4, 4) uint8" in str(results[2].error)
    assert results[4].error is not None
    assert "prompt.point" == results[4].error.field
    for name in ("masks", "boxes", "scores"):
        with pytest.raises(InvalidImageError, match="not an image"):
            getattr(results[0], name)
        assert 1 == len(getattr(results[5], name))


def test_several_prompts_and_candidates_of_one_image(segment: Segmenter) -> None:
    """Objects come in the order of the prompts, which may be mappings or prompts of the library's own."""
    own = Prompt(boxes=np.array([[2, 2, 20, 20]], np.float32))
    (result,) = segment([disc_picture()], [[CLICK, own]])

    assert [0, 1] == [annotation.prompt_index for annotation in result.annotations]
    assert (2, 4) == result.boxes.shape


def test_each_image_needs_its_prompt(segment: Segmenter) -> None:
    """One list that is shorter than the other is a mistake, not a smaller batch."""
    with pytest.raises(ValueError, match="shorter"):
        segment([picture(), picture(1)], [CLICK])


def test_a_pickled_segmenter_loads_its_model_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool sends to its workers is the arguments; a closed one answers nothing, and can be closed again."""
    monkeypatch.setenv("OSAMD_CACHE", str(tmp_path))
    with Segmenter("builtin", threads=1, multimask=True) as one:
        pickled = pickle.dumps(one)
        (expected,) = one([disc_picture()], [CLICK])
    one.close()
    with pytest.raises(RuntimeError, match="closed"):
        one([picture()])
    with pickle.loads(pickled) as other:  # noqa: S301 - our own
        (result,) = other([disc_picture()], [CLICK])
    assert len(result.annotations) == len(expected.annotations)
    # Results travel back from the workers.
    np.testing.assert_array_equal(expected.masks, pickle.loads(pickle.dumps(result)).masks)  # noqa: S301


def test_a_model_that_is_not_there_fails_at_once() -> None:
    """Before any image is looked at."""
    with pytest.raises(UnknownModelError, match="no-such-model"):
        Segmenter("no-such-model")


def test_the_notebook_example_runs(tmp_path: Path) -> None:
    """Paths, Pillow images and arrays in; masks, boxes and scores out."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "batch_notebook.py")],
        env=clean_environment({"OSAMD_CACHE": str(tmp_path)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    first, second, third, color, error = ended.stdout.splitlines()
    assert first.startswith("(1, 300, 451)")
    assert second.startswith("(1, 300, 451)")
    assert third.startswith("(2, 300, 451)")
    assert color.startswith("mean colour")
    assert "error: not an image" in error


def test_the_example_cuts_out_a_folder(tmp_path: Path) -> None:
    """Each photo's mask is a PNG of its size; a corrupt one is named, and the exit code is 1."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes((ROOT / "examples" / "cat.jpg").read_bytes())
    (photos / "text.jpg").write_text("no image")

    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "segment_folder.py"), str(photos), str(tmp_path / "masks")],
        env=clean_environment({"OSAMD_CACHE": str(tmp_path / "cache")}),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert 1 == ended.returncode, ended.stderr
    assert "cat.jpg: box" in ended.stdout
    assert "text.jpg: not an image" in ended.stderr
    with Image.open(tmp_path / "masks" / "cat.png") as mask:
        assert (451, 300) == mask.size


def test_everything_is_a_prompt(segment: Segmenter) -> None:
    """As in the API, or as the engine's own parameters; limits of time are the caller's."""
    asked: dict[str, Any] = {
        "points_per_side": 4,
        "pred_iou_thresh": 0.3,
        "stability_score_thresh": 0.3,
        "max_seconds": 1000,
    }
    image = encoded(disc_picture())
    one, other, wrong, mixed = segment(
        [image] * 4,
        [
            {"everything": asked},
            Everything(**asked),
            {"everything": {"points_per_side": 0}},
            {"everything": True, **CLICK},
        ],
    )
    assert len(one.annotations) == len(other.annotations) > 0
    assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    assert all(isinstance(item, Proposal) for item in one.annotations)
    np.testing.assert_array_equal(one.masks, other.masks)
    assert isinstance(wrong.error, InvalidPromptError)
    assert wrong.error.field == "prompt.everything.points_per_side"
    assert isinstance(mixed.error, InvalidPromptError)


def test_heic_that_crashes_the_decoder_fails_alone(segment: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decoded in another process, here one that crashes at once; other images are decoded in this one."""
    monkeypatch.setattr(decoder, "PROGRAM", "import os; os.abort()")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(1000)

    crashed, fine = segment([heic, encoded(disc_picture())], [CLICK] * 2)

    assert isinstance(crashed.error, InvalidImageError)
    assert "crashed the decoder" in str(crashed.error)
    assert fine.error is None


@pytest.mark.parametrize("wrong", [5, "cat", b"cat", ["cat"], [5], 1.5, {1, 2}])
def test_a_prompt_of_a_wrong_type_fails_only_its_own_result(segment: Segmenter, wrong: Any) -> None:
    """With the type in the message."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    bad, good = segment([pixels, pixels], [wrong, None])
    assert isinstance(bad.error, InvalidPromptError)
    assert type(wrong[0] if isinstance(wrong, list) else wrong).__name__ in str(bad.error)
    assert good.error is None


def test_a_path_that_cannot_exist_fails_only_its_own_result(segment: Segmenter) -> None:
    """Such as one with a null byte, which the operating system does not even get to see."""
    bad, good = segment(["a\0b.png", np.zeros((20, 30, 3), np.uint8)])
    assert isinstance(bad.error, InvalidImageError)
    assert good.error is None
