"""osam's nested lists of an embedding, read a row at a time."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from osamd.errors import InvalidRequestError
from osamd.wire.nested_lists import respell
from osamd.wire.parsing import from_json
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


def array_of(raw: bytes) -> np.ndarray[Any, Any]:
    """The embedding of JSON that was respelt."""
    spelt = json.loads(raw)["embedding"]
    return np.frombuffer(base64.b64decode(spelt["data"]), spelt["dtype"]).reshape(spelt["shape"])


@given(LISTS, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_lists_become_the_array_they_are(
    lists: list[list[list[float]]], indent: int | None, separators: tuple[str, str]
) -> None:
    """Whatever the spacing, the numbers and the shape are the same, and what stands around stays as it is."""
    document = {"before": "[[[", "embedding": lists, "extra_features": [], "after": '"embedding": [[[1]]]'}
    respelt = respell(json.dumps(document, indent=indent, separators=separators).encode())

    np.testing.assert_array_equal(np.array(lists, np.float32), array_of(respelt))
    assert {name: value for name, value in document.items() if name != "embedding"} == {
        name: value for name, value in json.loads(respelt).items() if name != "embedding"
    }


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
    raw = f'{{"embedding": {text}}}'.encode()
    respelt = respell(raw)

    # One bracket too many is the parser's to find, behind an array that was whole.
    assert respelt == raw or text == "[[[1]]]]"
    with pytest.raises(ValidationError):
        GenerateBody.model_validate_json(b'{"image_embedding": ' + respelt + b"}")


@given(st.text(alphabet='[]{},:"1 e\n', max_size=60))
def test_any_text_is_safe(text: str) -> None:
    """What comes out is what went in, or JSON that was JSON before."""
    raw = b'{"embedding":' + text.encode() + b"}"
    respelt = respell(raw)
    if respelt != raw:
        start = respelt.index(b'"}') + 2
        assert raw.endswith(respelt[start:])


def large(**more: Any) -> bytes:
    """A body with an embedding of more numbers than JSON may have elsewhere."""
    embedding = {"original_height": 8, "original_width": 8, "embedding": np.ones((3, 200, 200)).tolist()}
    return json.dumps({"image_embedding": embedding | more}).encode()


def test_a_large_embedding_is_read() -> None:
    """As the array it is."""
    body = from_json(large(), GenerateBody)

    assert body.image_embedding is not None
    (array,) = body.image_embedding.to_exchanged().arrays
    np.testing.assert_array_equal(np.ones((3, 200, 200), np.float32), array)


@pytest.mark.parametrize("more", [{"embedding": [[[0.5] * 200] * 199 + [[0.5] * 201]] * 3}, {"x": [0] * 100_001}])
def test_many_values_elsewhere_are_refused_unparsed(more: dict[str, Any]) -> None:
    """An embedding that is ragged, or more numbers beside one, would hold the interpreter."""
    with pytest.raises(InvalidRequestError, match="more than 100,000 values"):
        from_json(large(**more), GenerateBody)
