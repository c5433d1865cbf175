"""Plain fields that hold JSON: what is refused."""

import pytest

from osamd.errors import InvalidRequestError
from osamd.wire.plain_fields import body_from_pairs


@pytest.mark.parametrize("name", ["prompt", "prompts", "everything"])
def test_half_a_character_is_refused(name: str) -> None:
    """JSON can write half of a surrogate pair, which no reply could repeat."""
    with pytest.raises(InvalidRequestError) as caught:
        body_from_pairs([(name, r'{"texts": ["\ud800"]}')])
    assert name == caught.value.field
