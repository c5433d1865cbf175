"""osam's nested lists of an embedding, read a row at a time."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.errors import InvalidRequestError
from osamd.wire.json_bodies import from_json
from osamd.wire.nested_lists import Respelt, respell
from osamd.wire.schemas import GenerateBody

LISTS = st.integers(1, 4).flatmap(
    lambda width: st.integers(1, 3).flatmap(
        lambda rows: st.lists(
            st.lists(
                st.lists(st.floats(-1e6, 1e6, width=32), min_size=width, max_size=width), min_size=rows, max_size=rows
            ),
            min_size=1,
            max_size=3,
        )
    )
)


def array_of(respelt: Respelt) -> np.ndarray[Any, Any]:
    """The embedding that was respelt."""
    return np.frombuffer(base64.b64decode(respelt.base64), np.float32).reshape(respelt.shape)


@given(LISTS, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_lists_become_the_array_they_are(
    lists: list[list[list[float]]], indent: int | None, separators: tuple[str, str]
) -> None:
    """Whatever the spacing, the numbers and the shape are the same, and what is behind them is left alone."""
    raw = json.dumps({"embedding": lists, "after": 1}, indent=indent, separators=separators).encode()
    start = raw.index(b"[")
    respelt = respell(raw, start)

    assert respelt is not None
    np.testing.assert_array_equal(np.array(lists, np.float32), array_of(respelt))
    assert lists == json.loads(raw[start : respelt.end])
    named = json.loads(raw[:start] + respelt.array_named("here") + raw[respelt.end :])
    assert named == {"embedding": {"shape": list(respelt.shape), "dtype": "float32", "data": "here"}, "after": 1}


@pytest.mark.parametrize(
    "text",
    [
        "[[[1,2],[3]]]",
        "[[[1],[2]],[[3]]]",
        "[[[1]],[2]]",
        "[[[1]]",
        "[[[1]]]]",
        "[[[[1]]]]",
        "[[1,2]]",
        "[[[]]]",
        '[[["1"]]]',
        "[[[null]]]",
        "[[[1,]]]",
        "[[[1 2]]]",
        "[[[1]],,[[2]]]",
        "[[[1]][[2]]]",
        '[[[{"a":1}]]]',
        '"text"',
        "{}",
    ],
)
def test_what_is_no_array_is_left_to_the_parser(text: str) -> None:
    """It knows how to say what is wrong; nothing is made up."""
    # One bracket too many is the parser's to find, behind an array that was whole.
    assert (respell(text.encode(), 0) is None) == (text != "[[[1]]]]")
    embedding = f'{{"original_height": 1, "original_width": 1, "embedding": {text}}}'
    # A number as text is one, and an empty array is the engine's to refuse.
    if text in {'[[["1"]]]', "[[[]]]"}:
        return
    with pytest.raises(InvalidRequestError):
        embedding_of(from_json(f'{{"image_embedding": {embedding}}}'.encode(), GenerateBody))


@given(st.text(alphabet='[]{},:"1 e\n', max_size=60))
def test_any_text_is_safe(text: str) -> None:
    """What is respelt was an array of numbers."""
    respelt = respell(text.encode(), 0)
    if respelt is not None:
        assert np.array(json.loads(text[: respelt.end])).shape == respelt.shape


def embedding_of(body: GenerateBody) -> np.ndarray[Any, Any]:
    """The first array of a body's embedding."""
    assert body.image_embedding is not None
    first, *_ = body.image_embedding.to_exchanged().arrays
    return first


def large(**more: Any) -> bytes:
    """A body with an embedding of more numbers than JSON may have elsewhere."""
    embedding = {"original_height": 8, "original_width": 8, "embedding": np.ones((3, 200, 200)).tolist()}
    return json.dumps({"image_embedding": embedding | more}).encode()


def test_a_large_embedding_is_read() -> None:
    """As the array it is."""
    array = embedding_of(from_json(large(), GenerateBody))

    np.testing.assert_array_equal(np.ones((3, 200, 200), np.float32), array)


@pytest.mark.parametrize("more", [{"embedding": [[[0.5] * 200] * 199 + [[0.5] * 201]] * 3}, {"x": [0] * 100_001}])
def test_many_values_elsewhere_are_refused_unparsed(more: dict[str, Any]) -> None:
    """An embedding that is ragged, or more numbers beside one, would hold the interpreter."""
    with pytest.raises(InvalidRequestError, match="more than 100,000 values"):
        from_json(large(**more), GenerateBody)
