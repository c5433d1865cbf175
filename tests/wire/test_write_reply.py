"""The reply as it is written in pieces, against the schema that it is documented by."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.segment_requests import ImageHandle, SegmentResult
from osamd.settings import load_settings
from osamd.types import Annotation, Box, Embedding, Mask
from osamd.wire.mask_values import crossings
from osamd.wire.replies import BYTES_PER_CROSSING, GenerateReply, finish, no_limit, write_reply
from osamd.wire.schemas import GenerateBody

SIDE = 20
SETTINGS = load_settings()


def mask(seed: int) -> Mask:
    """A box of noise with a full border."""
    inside = np.random.default_rng(seed).random((7, 9)) < 0.5
    inside[[0, -1]] = True
    inside[:, [0, -1]] = True
    return Mask(inside, Box(3, 4, 11, 10), SIDE, SIDE)


def result(count: int) -> SegmentResult:
    """So many masks, and a box without one."""
    found = [Annotation(mask(number).box, mask(number), 0.5, 'a "cat"', number, 1, "mask_0") for number in range(count)]
    boxes = [Annotation(Box(0, 0, 1, 1), None, None, None, 0, 0, None)] if count else []
    values = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32)
    embedding = Embedding(SIDE, SIDE, {"a": values, "b": -values})
    handle = ImageHandle("img_0", "m:1", SIDE, SIDE, datetime.now(UTC))
    return SegmentResult(handle, (*found, *boxes), embedding, cache_hit=True, device="cpu", license="MIT")


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("include", [[], ["image_embedding"], ["image_embedding_compact"]], ids=str)
@pytest.mark.parametrize("mask_format", ["png", "rle", "polygon", "none"])
def test_it_is_the_schemas_json_to_the_byte(count: int, include: list[str], mask_format: str) -> None:
    """Whatever is asked for; and its pieces are all that ``room`` is told of."""
    told: list[int] = []
    body = GenerateBody.model_validate({"mask_format": mask_format, "include": include})

    reply = b"".join(finish(write_reply(result(count), body, SETTINGS, told.append)))

    read = GenerateReply.model_validate_json(reply)
    assert read.model_dump_json().encode() == reply
    assert (len(result(count).annotations), bool(include)) == (len(read.annotations), read.image_embedding is not None)
    assert len(reply) == told[-1]
    assert all(annotation.mask is None for annotation in read.annotations) == (mask_format == "none" or not count)


def test_others_may_go_on_between_masks() -> None:
    """There is a step for each."""
    assert 3 == sum(1 for _ in write_reply(result(3), GenerateBody(), SETTINGS, no_limit))


def test_a_reply_without_room_is_not_finished() -> None:
    """What ``room`` raises ends it, for polygons before they are made."""

    def room(nbytes: int) -> None:
        if nbytes > 2000:
            raise ValueError(nbytes)

    body = GenerateBody.model_validate({"mask_format": "polygon"})
    with pytest.raises(ValueError, match=str(BYTES_PER_CROSSING * crossings(mask(0)))[:-3]):
        finish(write_reply(result(1), body, SETTINGS, room))


@given(st.integers(1, 6), st.integers(1, 6), st.randoms())
def test_polygons_have_no_more_vertices_than_crossings_tell(height: int, width: int, rng: Any) -> None:
    """Two at most for each time a row enters or leaves the mask."""
    from osamd.pixels.masks import mask_from_array, polygons  # noqa: PLC0415

    inside = np.array([[rng.random() < 0.5 for _ in range(width)] for _ in range(height)])
    one = mask_from_array(inside, offset=(0, 0), height=height, width=width)
    if one is not None:
        vertices = sum(len(part.exterior) + sum(map(len, part.holes)) for part in polygons(one))
        assert vertices <= 2 * crossings(one)
