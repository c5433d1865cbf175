"""What writing a reply may cost."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pytest

from osamd.errors import InvalidPromptError
from osamd.segment_requests import ImageHandle, SegmentResult
from osamd.settings import load_settings
from osamd.types import Annotation, Box, Embedding, Mask
from osamd.wire.mask_fields import CANVAS_FACTOR
from osamd.wire.replies import GenerateReply, finish, no_limit, write_reply
from osamd.wire.schemas import GenerateBody

SIDE = 100
# Masks of such an image that may be written at its size.
MOST = 3
SETTINGS = load_settings(max_mask_pixels=MOST * SIDE * SIDE // CANVAS_FACTOR, mask_layout="full")


def result(count: int) -> SegmentResult:
    """Masks of one pixel each."""
    mask = Mask(np.ones((1, 1), np.bool_), Box(3, 4, 3, 4), SIDE, SIDE)
    annotation = Annotation(mask.box, mask, 0.5, None, 0, 0, None)
    handle = ImageHandle("img_0", "m:1", SIDE, SIDE, datetime.now(UTC))
    embedding = Embedding(SIDE, SIDE, {"features": np.zeros((1, 1, 1, 1), np.float32)})
    return SegmentResult(handle, (annotation,) * count, embedding, cache_hit=True, device="cpu", license="MIT")


def written(count: int, fields: Mapping[str, str]) -> int:
    """How many masks the answer has."""
    body = GenerateBody.model_validate(fields)
    reply = b"".join(finish(write_reply(result(count), body, SETTINGS, no_limit)))
    return len(GenerateReply.model_validate_json(reply).annotations)


@pytest.mark.parametrize("mask_format", ["png", "rle"])
def test_masks_at_the_images_size_are_bounded(mask_format: str) -> None:
    """One more is refused before the first is painted, with the ways out."""
    assert MOST == written(MOST, {"mask_format": mask_format})
    with pytest.raises(InvalidPromptError, match='mask_layout "crop"') as caught:
        written(MOST + 1, {"mask_format": mask_format})
    assert (422, "mask_layout") == (caught.value.status, caught.value.field)


@pytest.mark.parametrize(
    "fields", [{"mask_layout": "crop"}, {"mask_format": "polygon"}, {"mask_format": "none"}], ids=str
)
def test_the_ways_out_are_ways_out(fields: dict[str, str]) -> None:
    """What is not painted at the image's size is not counted."""
    assert 2 * MOST == written(2 * MOST, fields)
