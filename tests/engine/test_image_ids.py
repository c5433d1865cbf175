"""What the names of images and masks tell: the image to a router, and nothing else to anybody."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest
from engines import embed, picture, request, run, segment
from fake_model import click

from osamd.engine import Engine
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.timings import Timings

ROUTING = 8


def routing(name: str) -> str:
    """The digits that a router looks at."""
    return name.partition("_")[2][:ROUTING]


def test_handles_begin_with_the_hash_of_the_image() -> None:
    """The same digits for every owner and model, so that a photo and clicks on it reach the same server."""
    photo = picture()

    async def main(engine: Engine) -> list[str]:
        return [
            (await embed(engine, photo, model=model, owner=owner)).image_id
            for model, owner in (("sam2:tiny", "me"), ("sam2:small", "me"), ("sam2:tiny", "you"))
        ]

    ids = run(main)
    assert {hashlib.sha256(photo).hexdigest()[:ROUTING]} == {routing(image_id) for image_id in ids}
    assert 3 == len({image_id[4 + ROUTING :] for image_id in ids})
    assert all(re.fullmatch(r"img_[0-9a-f]{32}", image_id) for image_id in ids)


def test_masks_begin_like_their_image() -> None:
    """A refining click can be routed by its mask_id; two masks of an image still have different names."""

    async def main(engine: Engine) -> tuple[str, list[str | None]]:
        result = await segment(engine, request(picture(), click(5, 5), click(9, 9)))
        return result.image.image_id, [annotation.mask_id for annotation in result.annotations]

    image_id, masks = run(main)
    assert 2 == len(set(masks))
    for mask_id in masks:
        assert mask_id is not None
        assert re.fullmatch(r"mask_[0-9a-f]{32}", mask_id)
        assert routing(image_id) == routing(mask_id)


def test_an_embedding_is_hashed_with_its_shapes() -> None:
    """Equal bytes of another shape, order or image size are another image."""
    values = np.arange(8, dtype=np.float32)
    sources = [
        ImageSource.of_embedding(ExchangedEmbedding(height=height, width=2, arrays=arrays))
        for height, arrays in (
            (1, (values.reshape(2, 2, 2),)),
            (1, (values.reshape(1, 2, 4),)),
            (2, (values.reshape(2, 2, 2),)),
            (1, (values[:4].reshape(1, 2, 2), values[4:].reshape(1, 2, 2))),
        )
    ]
    assert 4 == len({source.sha256 for source in sources})


def test_content_without_its_hash_is_a_mistake_of_the_caller() -> None:
    """An image is hashed where it is parsed; the engine does not hash on its loop."""

    async def main(engine: Engine) -> None:
        bare = dataclasses.replace(ImageSource.of_bytes(picture()), sha256="")
        with pytest.raises(RuntimeError, match="SHA-256"):
            await engine.embed(bare, model=None, owner="me", timings=Timings())

    run(main)
