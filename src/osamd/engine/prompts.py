"""Validation of a request's prompts: the model's capabilities and the image's bounds."""

from collections.abc import Iterable
from dataclasses import replace

from osamd.errors import InvalidPromptError, InvalidRequestError
from osamd.models.base import Adapter
from osamd.pixels.geometry import check_inside, clipped, onto_pixels
from osamd.types import Capabilities, Embedding, Prompt


def check_capabilities(prompts: Iterable[Prompt], can: Capabilities, *, model: str) -> None:
    """Refuse prompts that a model does not support.

    Raises:
        InvalidPromptError: names the first unsupported field, and what the model supports.
    """
    for prompt in prompts:
        refused = [
            (len(prompt.points) > 0 and not can.points, "points"),
            (len(prompt.boxes) > can.boxes, "boxes" if len(prompt.boxes) > 1 else "box"),
            (len(prompt.texts) > can.texts, "texts"),
            (not (prompt.mask_id is None and prompt.mask_png is None) and not can.mask_input, "mask_input"),
        ]
        for is_refused, part in refused:
            if is_refused:
                raise InvalidPromptError(f"{model} takes {can.sentence()}", field=prompt.path(part))


def check_masks(can: Capabilities, *, model: str) -> None:
    """Refuse a model that returns no masks, for a request that needs them.

    Raises:
        InvalidRequestError: says what to request instead.
    """
    if not can.masks:
        raise InvalidRequestError(
            f"{model} returns boxes but no masks, so there is no image to return: request JSON (over HTTP"
            " Accept: application/json, on the command line --json), or pass its boxes to a model that returns masks",
            field="model",
        )


def check_mask_pixels(prompts: Iterable[Prompt], embedding: Embedding, *, most: int) -> None:
    """Limit the masks that a request refines as pictures, each of the image's size.

    Raises:
        InvalidPromptError: they have more than ``most`` pixels together.
    """
    given = [prompt for prompt in prompts if prompt.mask_png is not None]
    pixels = len(given) * embedding.height * embedding.width
    if pixels > most:
        raise InvalidPromptError(
            f"the masks to refine have {pixels:,} pixels together; the limit is {most:,}: send fewer at once",
            field=f"{given[-1].field}.mask_input",
        )


def placed_prompts(
    prompts: tuple[Prompt, ...] | None, adapter: Adapter, embedding: Embedding, *, clip: bool = False
) -> tuple[Prompt, ...]:
    """The prompts, checked to lie inside the image; the model's default prompt if there are none.

    Args:
        prompts: as in ``SegmentRequest``.
        adapter: the model.
        embedding: the encoded image.
        clip: whether to clip prompts that reach slightly beyond the image first.

    Raises:
        InvalidPromptError: one lies outside the image.
    """
    import numpy as np

    height, width = embedding.height, embedding.width
    if prompts is None:
        return (adapter.default_prompt(height=height, width=width),)
    if not prompts:
        return prompts
    if clip:
        prompts = tuple(clipped(prompt, height=height, width=width) for prompt in prompts)
    # Check all at once: this runs on the event loop, and there may be 64.
    together = Prompt(
        points=np.concatenate([prompt.points for prompt in prompts]),
        boxes=np.concatenate([prompt.boxes for prompt in prompts]),
    )
    try:
        check_inside(together, height=height, width=width)
    except InvalidPromptError:
        for prompt in prompts:
            check_inside(prompt, height=height, width=width)
        raise
    if onto_pixels(together.points, height=height, width=width) is together.points:
        return prompts
    return tuple(replace(prompt, points=onto_pixels(prompt.points, height=height, width=width)) for prompt in prompts)
