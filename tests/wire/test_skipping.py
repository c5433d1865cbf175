"""Parts of a body that nobody reads are left out before anything is counted."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osamd.errors import InvalidRequestError
from osamd.wire.pieces import PIECE_BYTES
from osamd.wire.skipping import MOST_SKIPPED, without_values

NAMES = ("annotations", "drafts")

texts = st.sampled_from(["annotations", "drafts", '"annotations": [', "\\", '\\"', "]", "{", "é", ""]) | st.text()
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)


def expected(value: Any) -> Any:
    """The value without the lists and objects under these keys."""
    if isinstance(value, list):
        return [expected(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: None if key in NAMES and isinstance(item, list | dict) else expected(item) for key, item in value.items()
    }


@settings(max_examples=60)
@given(values, st.sampled_from([None, 1]), st.booleans())
def test_lists_and_objects_under_these_keys_are_null(value: Any, indent: int | None, is_ascii: bool) -> None:  # noqa: FBT001
    """At any depth, whatever strings look like; everything else stays."""
    raw = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    assert expected(value) == json.loads(without_values(raw, NAMES).decode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("shift", range(4))
def test_escapes_at_the_end_of_a_piece(shift: int) -> None:
    """A piece of a large value may end within an escape."""
    text = "x" * shift + '\\"]}' * (PIECE_BYTES // 2)
    raw = json.dumps({"annotations": [text, text], "data": 1}).encode()
    assert {"annotations": None, "data": 1} == json.loads(without_values(raw, NAMES))


def test_too_many_and_unfinished_ones_are_refused() -> None:
    """In words, without reading the rest."""
    with pytest.raises(InvalidRequestError, match="at most"):
        without_values(b"[" + b'{"drafts":[]},' * (MOST_SKIPPED + 1) + b"0]", NAMES)
    with pytest.raises(InvalidRequestError, match="unterminated"):
        without_values(b'{"drafts": [[', NAMES)
