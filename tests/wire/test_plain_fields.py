"""Plain fields that hold JSON: what is refused."""

import pytest

from osamd.errors import InvalidRequestError
from osamd.wire.plain_fields import body_from_pairs, pairs_of


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("name", ["image", "image_base64", "mask_input"])
def test_base64_with_unescaped_plus_signs_is_what_was_meant(name: str, head: str) -> None:
    """``curl -d image=$(base64 ...)``: a form takes a plus sign for a space, which base64 does not have."""
    assert [(name, f"{head}iVBO+w/0+KGgo=")] == pairs_of(f"{name}={head}iVBO+w/0+KGgo=")
    assert [("text", "a cat")] == pairs_of("text=a+cat")
    assert [(name, f"{head}iVBO+w/0=")] == pairs_of(f"{name}={head}iVBO+w%2F0%3D")
    # Where plus signs are escaped, the others are spaces, which base64 may have between its characters.
    assert [(name, f"{head}iVBO w/0+")] == pairs_of(f"{name}={head}iVBO+w%2F0%2B")
    assert [(name, f"{head}iVBO w/0=")] == pairs_of(f"{name}={head}iVBO%20w/0=")


@pytest.mark.parametrize("name", ["prompt", "prompts", "everything"])
def test_half_a_character_is_refused(name: str) -> None:
    """JSON can write half of a surrogate pair, which no reply could repeat."""
    with pytest.raises(InvalidRequestError) as caught:
        body_from_pairs([(name, r'{"texts": ["\ud800"]}')])
    assert name == caught.value.field
