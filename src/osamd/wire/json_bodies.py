"""JSON bodies: bytes in, one of our schemas out.

Potentially large parts, base64 and osam's nested lists, are extracted first and read piece by piece; the rest must be
small, or is refused unparsed. So no body, whatever its content, holds the interpreter lock for long or takes much more
memory than its size.
"""

import re
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import ValidationError

from osamd.errors import InvalidRequestError
from osamd.wire.base64_text import LongText
from osamd.wire.fields import WireModel
from osamd.wire.pieces import PIECE_BYTES, as_utf8, count_of, find, is_blank
from osamd.wire.validation_errors import invalid_request

if TYPE_CHECKING:
    from osamd.wire.nested_lists import Respelt

Fields = TypeVar("Fields", bound=WireModel)

EMPTY: Final = "the body is empty: expected JSON, multipart/form-data or an encoded image"
# Commas and opening brackets in JSON: far more than the largest prompts need.
MOST_MARKS: Final = 100_000
# Enough for 4 096 prompts with every field.
MOST_QUOTES: Final = 60_000
# Without base64 and nested lists. The largest prompts, pretty-printed with one number per line, have half of it.
MOST_BYTES: Final = 4_000_000
LONGEST_STRING: Final = 65_536
# Matches the keys before base64 strings.
BASE64_KEY: Final = re.compile(rb'"(image|image_base64|data|mask_input)"\s{0,64}:\s{0,64}"\Z')
ANY_KEY: Final = re.compile(rb'"([^"\\]{1,64})"\s{0,64}:\s{0,64}"\Z')
BEFORE_STRING: Final = 256
LISTS_KEY: Final = b"embedding"
LISTS: Final = re.compile(rb"\s{0,64}:\s{0,64}(?=\[)")


def from_json(
    raw: bytes,
    schema: type[Fields],
    *,
    base64_key: re.Pattern[bytes] = BASE64_KEY,
    longest_string: int = LONGEST_STRING,
) -> Fields:
    """Parse a JSON body.

    Args:
        raw: the body, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        schema: the expected schema.
        base64_key: matches the key, colon and opening quotation mark before base64 strings, which the schema has as
            ``Base64Text``.
        longest_string: limit on every other string, in bytes.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
    """
    if is_blank(raw):
        raise InvalidRequestError(EMPTY)
    try:
        raw, start = as_utf8(raw)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"the body is not JSON: it starts like {error.encoding}, but is not valid {error.encoding}"
        ) from None
    small, texts = _without_long_parts(raw, start, base64_key, longest_string)
    check_marks(small)
    try:
        return schema.model_validate_json(small, context=texts)
    except ValidationError as error:
        refusal = invalid_request(error.errors(include_url=False, include_input=False, include_context=False))
    message = str(refusal)
    if texts and refusal.field is None:
        # The position refers to the body without its long parts.
        message = message.partition(" at line ")[0]
    raise InvalidRequestError(message, field=refusal.field)


def check_marks(raw: bytes, field: str | None = None) -> None:
    """Refuse JSON with too many values before parsing it.

    Raises:
        InvalidRequestError: it has more than ``MOST_MARKS``.
    """
    if sum(count_of(raw, mark, most=MOST_MARKS) for mark in (b",", b"[", b"{")) > MOST_MARKS:
        message = f"the JSON has more than {MOST_MARKS:,} values outside a well-formed embedding"
        raise InvalidRequestError(message, field=field)


def _without_long_parts(
    raw: bytes, start: int, base64_key: re.Pattern[bytes], longest_string: int
) -> tuple[bytes, dict[str, LongText]]:
    """Replace base64 strings by placeholders, and nested lists by base64.

    Returns:
        The JSON with a placeholder for each base64 string, and these strings by placeholder.
    """
    if count_of(raw, b'"', most=MOST_QUOTES) > MOST_QUOTES:
        raise InvalidRequestError(f"the JSON has more than {MOST_QUOTES // 2:,} strings")
    # Random, so that a body cannot contain it.
    word = secrets.token_hex(8)
    texts: dict[str, LongText] = {}
    last: str | None = None
    # Bytes to copy: from, to; or bytes to insert.
    kept: list[tuple[int, int] | bytes] = []
    done = start
    opening = find(raw, b'"', start)
    while opening >= 0:
        closing = _end_of_string(raw, opening + 1)
        if raw.startswith(LISTS_KEY, opening + 1, closing) and closing - opening == len(LISTS_KEY) + 1:
            lists = LISTS.match(raw, closing + 1)
            respelt = _respelt(raw, lists.end()) if lists is not None else None
            if lists is not None and respelt is not None:
                name = f"{word}-{len(texts)}"
                texts[name] = LongText(respelt.base64, 0, len(respelt.base64))
                kept += [(done, lists.end()), respelt.array_named(name)]
                done = closing = respelt.end
        elif base64_key.search(raw, max(start, opening - BEFORE_STRING), opening + 1):
            text = LongText(raw, opening + 1, closing)
            # Both spellings of the image may be given if they are equal.
            if last is None or not text.equals(texts[last]):
                last = f"{word}-{len(texts)}"
                texts[last] = text
            name = last
            kept += [(done, opening + 1), name.encode()]
            done = closing
        elif closing - opening > longest_string:
            raise _too_long(raw, opening, longest_string)
        opening = find(raw, b'"', closing + 1)
    kept.append((done, len(raw)))
    size = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in kept)
    if size > MOST_BYTES:
        raise InvalidRequestError(
            f"the JSON has {size:,} bytes without image and embedding; at most {MOST_BYTES:,} are allowed"
        )
    return b"".join(part if isinstance(part, bytes) else raw[slice(*part)] for part in kept), texts


def _respelt(raw: bytes, start: int) -> "Respelt | None":
    from osamd.wire.nested_lists import respell

    return respell(raw, start)


def _end_of_string(raw: bytes, start: int) -> int:
    """Where the quotation mark is that ends the string which begins at ``start``."""
    position = start
    while (position := find(raw, b'"', position)) >= 0:
        if _backslashes_before(raw, position, start) % 2 == 0:
            return position
        position += 1
    raise InvalidRequestError("the body is not JSON: unterminated string")


def _backslashes_before(raw: bytes, position: int, start: int) -> int:
    # There are few, mostly, and a large string may have thousands of quotation marks.
    end, length = position, 16
    while end > start and raw[end - 1] == ord("\\"):
        piece = raw[max(start, end - length) : end]
        end -= len(piece) - len(piece.rstrip(b"\\"))
        length = min(2 * length, PIECE_BYTES)
    return position - end


def _too_long(raw: bytes, opening: int, most: int) -> InvalidRequestError:
    key = ANY_KEY.search(raw, max(0, opening - BEFORE_STRING), opening + 1)
    # Where every string may be as long as the whole JSON, there are no exceptions.
    exceptions = "" if most == MOST_BYTES else ": only images and embedding data may be that long"
    return InvalidRequestError(
        f"a string exceeds {most:,} bytes{exceptions}",
        field=key[1].decode("utf-8", "replace") if key is not None else None,
    )
