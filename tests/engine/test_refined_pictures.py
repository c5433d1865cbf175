"""Masks to refine as pictures, in the engine: what reaches the model, and what is refused."""

import numpy as np
import pytest
from engines import HEIGHT, WIDTH, picture, request, run, segment
from fake_model import FakeModel
from pictures import encoded
from PIL import Image

from osamd.engine import Engine
from osamd.errors import InvalidPromptError
from osamd.types import Prompt

PAINTED = np.zeros((HEIGHT, WIDTH), bool)
PAINTED[5:12, 8:20] = True
MASK = encoded(Image.fromarray(PAINTED))


def test_model_gets_the_logits_of_the_mask() -> None:
    """At the model's own resolution; here that of the image."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        result = await segment(engine, request(picture(), Prompt(mask_png=MASK), Prompt(mask_png=MASK)))
        assert 2 == len(result.annotations)

    run(main, model)
    for _, mask_input, _ in model.decoded:
        assert mask_input is not None
        np.testing.assert_array_equal(PAINTED, mask_input.values > 0)


@pytest.mark.parametrize(("count", "most"), [(1, WIDTH * HEIGHT - 1), (3, 2 * WIDTH * HEIGHT)])
def test_masks_of_one_request_are_limited(count: int, most: int) -> None:
    """Before any is decoded: their pixels count together."""
    model = FakeModel()

    async def main(engine: Engine) -> None:
        with pytest.raises(InvalidPromptError, match=f"the limit is {most:,}: send fewer"):
            await segment(engine, request(picture(), *[Prompt(mask_png=b"anything")] * count))

    run(main, model, max_mask_pixels=most)
    assert [] == model.decoded


def test_error_names_the_prompt() -> None:
    """The field of the second prompt, though the error comes from the decoder."""

    async def main(engine: Engine) -> None:
        prompts = (Prompt(mask_png=MASK, field="prompts[0]"), Prompt(mask_png=MASK[:60], field="prompts[1]"))
        with pytest.raises(InvalidPromptError, match="the mask is truncated or corrupt") as caught:
            await segment(engine, request(picture(), *prompts))
        assert "prompts[1].mask_input" == caught.value.field

    run(main)
