"""What is kept in memory for a caller holds no more than it is counted as."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from peer import HERE, Blobs, smooth_photo

from osamd.library.catalog import load_catalog
from osamd.library.store import Store
from osamd.models import build_model
from osamd.models.base import Adapter, encode_pixels
from osamd.models.efficientsam import EfficientSam
from osamd.models.sam import Sam
from osamd.models.sam2 import Sam2
from osamd.models.sam3 import Sam3
from osamd.models.yoloworld import YoloWorld
from osamd.types import Prompt

FAMILIES: dict[str, Callable[..., Adapter]] = {
    "efficientsam": EfficientSam,
    "sam": Sam,
    "sam2": Sam2,
    "sam3": Sam3,
    "yoloworld": YoloWorld,
}


def held_bytes(values: npt.NDArray[Any]) -> float:
    """What an array keeps in memory, with all that it is a view of; infinite if that is not known."""
    while isinstance(values.base, np.ndarray):
        values = values.base
    return values.nbytes if values.flags.owndata else float("inf")


def adapter_of(family: str, blobs: Blobs) -> Adapter:
    """The packaged weights of the built-in model, small graphs of the others."""
    if family != "builtin":
        return FAMILIES[family](blobs[family], HERE)
    model = load_catalog().resolve("builtin")
    return build_model(model, Store(Path("nowhere")).paths(model), HERE)


@pytest.mark.parametrize("family", ["builtin", *FAMILIES])
def test_an_embedding_holds_what_it_is_counted_as(blobs: Blobs, family: str) -> None:
    """Its features and its picture are no parts of something larger, such as a block of the encoder's arena."""
    embedding = encode_pixels(adapter_of(family, blobs), smooth_photo(240, 320))
    arrays = [*embedding.features.values(), *([] if embedding.picture is None else [embedding.picture.jpeg])]
    assert embedding.nbytes == sum(held_bytes(values) for values in arrays)


@pytest.mark.parametrize("family", ["builtin", "efficientsam", "sam", "sam2"])
def test_a_mask_holds_what_it_is_counted_as(blobs: Blobs, family: str) -> None:
    """Each of several candidates is kept without the others."""
    adapter = adapter_of(family, blobs)
    embedding = encode_pixels(adapter, smooth_photo(240, 320))
    prompt = Prompt(points=np.array([[160, 120]], np.float32), point_labels=np.array([1]))
    found = adapter.decode(embedding, prompt, mask_input=None, multimask=True)
    masks = [candidate.logits for candidate in found if candidate.logits is not None]
    assert masks
    assert [logits.nbytes for logits in masks] == [held_bytes(logits.values) for logits in masks]
