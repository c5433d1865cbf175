"""JSON bodies: encodings, and limits that hold before anything is parsed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.errors import InvalidRequestError
from osamd.wire import json_bodies
from osamd.wire.base64_text import decode_base64
from osamd.wire.json_bodies import LONGEST_STRING, MOST_BYTES, from_json
from osamd.wire.pieces import PIECE_BYTES, as_utf8, count_of, find
from osamd.wire.schemas import GenerateBody

BODY = {"image": "aGk=", "model": "mod\u00e8le \U0001f408", "prompt": {"texts": ['a "quoted\\" cat'], "points": []}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_encoding_of_json_is_read(encoding: str) -> None:
    """PowerShell and Windows editors write byte order marks and UTF-16."""
    fields = from_json(json.dumps(BODY, ensure_ascii=False).encode(encoding), GenerateBody)

    assert fields.image is not None
    assert (fields.model, decode_base64(fields.image, field="image")) == (BODY["model"], b"hi")


@given(st.text(), st.sampled_from(["utf-16", "utf-32"]), st.integers(PIECE_BYTES - 9, PIECE_BYTES + 9))
def test_characters_are_whole_where_pieces_meet(text: str, encoding: str, length: int) -> None:
    """Whatever is cut in two."""
    whole = "x" * (length // 2) + text
    assert as_utf8(whole.encode(encoding, "replace"))[0].decode() == whole.encode("utf-8", "replace").decode()


def test_marks_are_found_where_pieces_meet() -> None:
    """And counted once."""
    for shift in range(5):
        raw = b"x" * (PIECE_BYTES - shift) + b"seam" + b"x" * PIECE_BYTES + b"seam"
        assert find(raw, b"seam", 0) == PIECE_BYTES - shift
        assert find(raw, b"seam", PIECE_BYTES) == len(raw) - 4 if shift else PIECE_BYTES
        assert count_of(raw, b"seam", most=10) == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_texts_are_told_from_structure(value: Any) -> None:
    """Quotation marks and backslashes in strings do not mislead: what is JSON stays JSON."""
    with pytest.raises(InvalidRequestError) as caught:
        from_json(json.dumps({"before": value, "image": "aGk=", "after": value}).encode(), GenerateBody)

    assert "not JSON" not in str(caught.value)


def test_looking_back_from_a_quotation_mark_takes_no_more_than_what_is_escaped() -> None:
    """A long string with thousands of them took seconds, a copy of what is before each."""
    copied = 0

    class Counting(bytes):
        def __getitem__(self, key: Any) -> Any:
            nonlocal copied
            found = super().__getitem__(key)
            copied += len(found) if isinstance(key, slice) else 0
            return found

    raw = Counting(b'{"x": "' + b"A" * 60_000 + b'\\"' * 2_000 + b"\\\\" * 500 + b'"}')
    closing = json_bodies._end_of_string(raw, raw.index(b'"A') + 1)
    assert len(raw) - 2 == closing
    assert copied < 200_000


def test_a_limit_that_holds_for_every_string_names_no_exceptions() -> None:
    """Bodies without images, such as Label Studio's, are not told that images may be longer."""
    body = b'{"model": "' + b"x" * (MOST_BYTES + 1) + b'"}'
    with pytest.raises(InvalidRequestError) as caught:
        from_json(body, GenerateBody, longest_string=MOST_BYTES)

    assert str(caught.value) == "a string exceeds 4,000,000 bytes"
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        ('{"model": "' + "x" * 100_000 + '"}', "model", "exceeds 65,536 bytes"),
        ('{"' + "x" * 100_000 + '": 1}', None, "exceeds 65,536 bytes"),
        ('{"prompt": {"texts": ["' + "x" * 100_000 + '"]}}', None, "exceeds 65,536 bytes"),
        ('{"model": ' + " " * 4_000_000 + "1}", None, "4,000,012 bytes without image"),
        ('{"model": ' + "1" * 4_000_000 + "}", None, "bytes without image"),
        ('{"include": [' + '"",' * 31_000 + '""]}', None, "more than 30,000 strings"),
        ('{"include": [' + "0," * 100_001 + "0]}", None, "more than 100,000 values"),
        ("{" + ",".join(f'"k{i}": 0' for i in range(65)) + "}", None, "at most 64 fields, got 65"),
        (
            '{"prompts": [{' + ",".join(f'"k{i}": 0' for i in range(65)) + "}]}",
            "prompts[0]",
            "at most 64 fields, got 65",
        ),
        ('{"multimask": ' + "1" * 5000 + "}", None, "number out of range"),
    ],
)
def test_json_that_is_slow_to_parse_is_refused(body: str, field: str | None, part: str) -> None:
    """Cheap counts decide, and the message names the limit."""
    with pytest.raises(InvalidRequestError, match=part) as caught:
        from_json(body.encode(), GenerateBody)

    assert field == caught.value.field


def test_one_wrong_value_of_a_list_is_enough() -> None:
    """An error for each takes a hundred times the bytes."""
    body = {"prompt": {"points": [["a", "b"]] * 4000, "labels": ["x"] * 4000, "texts": [1] * 4000}}
    with pytest.raises(InvalidRequestError) as caught:
        from_json(json.dumps(body).encode(), GenerateBody)

    assert caught.value.field == "prompt.points[0][0]"


def test_names_in_messages_are_cut() -> None:
    """A name of 60 KB, escaped, would be an answer of 360 KB."""
    with pytest.raises(InvalidRequestError) as caught:
        from_json(json.dumps({"prompt": {"\x01" * (LONGEST_STRING // 8): 1}}).encode(), GenerateBody)

    assert len(str(caught.value)) < 300
    assert len(caught.value.field or "") < 300
