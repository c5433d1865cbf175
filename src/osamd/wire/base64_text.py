"""Base64 as clients write it: with data URIs, white space, JSON's escapes, and either alphabet."""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import from_json

from osamd.errors import InvalidRequestError
from osamd.wire.pieces import PIECE_BYTES, find, pieces

WHITE_SPACE: Final = b" \t\r\n\v\f"
# Maps the URL-safe alphabet to the standard one (RFC 4648, section 5).
TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
DATA_URI: Final = re.compile(rb"\s{0,64}data:", re.IGNORECASE)
LONGEST_DATA_URI_HEAD: Final = 1024
QUANTUM: Final = 4
# Length of ``\u0041``.
LONGEST_ESCAPE: Final = 6


@dataclass(frozen=True, slots=True)
class LongText:
    """A string that is left in place in a body instead of being copied and decoded with the rest.

    Attributes:
        raw: the body.
        start: where the string begins.
        end: where it ends.
        is_json: whether it is a JSON string, which may contain escapes.
    """

    raw: bytes = field(repr=False)
    start: int
    end: int
    is_json: bool = True

    def equals(self, other: "LongText") -> bool:
        """Whether both have the same characters."""
        if self.end - self.start != other.end - other.start:
            return False
        mine, theirs = pieces(self.raw, self.start, self.end), pieces(other.raw, other.start, other.end)
        return all(one == another for one, another in zip(mine, theirs, strict=True))


def short_text(value: str | LongText, *, most: int) -> str | None:
    """The characters of a string that may be something else than base64.

    None if it has more than ``most`` bytes, or is not valid JSON, which is not checked where it is left in place.
    """
    if isinstance(value, str):
        return value if len(value) <= most else None
    if value.end - value.start > most:
        return None
    raw = value.raw[value.start : value.end]
    if not value.is_json:
        return raw.decode("utf-8", "replace")
    try:
        text: str = from_json(b'"' + raw + b'"')
    except ValueError:
        return None
    return text


def _text(value: object, info: ValidationInfo) -> str | LongText:
    if not isinstance(value, str):
        raise ValueError("expected a string")  # noqa: TRY004 - pydantic reports ValueError only
    found: str | LongText = (info.context or {}).get(value, value)
    return found


Base64Text = Annotated[str | LongText, PlainValidator(_text), WithJsonSchema({"type": "string"})]


def decode_base64(text: str | bytes | LongText, *, field: str) -> bytes:
    """Decode base64.

    Accepts both alphabets of RFC 4648, with or without padding, white space and line breaks anywhere, and a data URI
    prefix in any letter case.

    Args:
        text: the base64.
        field: the field it is in, for the message.

    Raises:
        InvalidRequestError: it is not base64, or empty.
    """
    if isinstance(text, str):
        try:
            text = text.encode("ascii")
        except UnicodeEncodeError:
            raise _not_base64(field) from None
    if isinstance(text, bytes):
        text = LongText(text, 0, len(text), is_json=False)
    start = _behind_data_uri(text, field)
    has_escapes = text.is_json and -1 < find(text.raw, b"\\", start) < text.end
    encoded = _unescaped(text.raw, start, text.end) if has_escapes else pieces(text.raw, start, text.end)
    try:
        data = b"".join(_decoded(encoded))
    except (binascii.Error, ValueError):
        raise _not_base64(field) from None
    if not data:
        raise InvalidRequestError("the image is empty" if field == "image" else "no data", field=field)
    return data


def _not_base64(field: str) -> InvalidRequestError:
    return InvalidRequestError("not base64", field=field)


def _behind_data_uri(text: LongText, field: str) -> int:
    """Where the base64 begins."""
    scheme = DATA_URI.match(text.raw, text.start, text.end)
    if scheme is None:
        return text.start
    comma = text.raw.find(b",", scheme.end(), min(text.end, scheme.end() + LONGEST_DATA_URI_HEAD))
    if comma < 0:
        raise InvalidRequestError(
            "expected a data URI such as data:image/...;base64,...; this one has no comma", field=field
        )
    if not text.raw[scheme.end() : comma].strip().lower().endswith(b"base64"):
        raise InvalidRequestError("expected a data URI in base64, such as data:image/...;base64,...", field=field)
    return comma + 1


def _unescaped(raw: bytes, start: int, end: int) -> Iterator[bytes]:
    """Resolve JSON escapes, such as PHP's for slashes and .NET's for plus signs."""
    while start < end:
        stop = min(start + PIECE_BYTES, end)
        if stop < end:
            # Do not split an escape. An escaped backslash is not handled, but is not base64 either.
            escape = raw.rfind(b"\\", stop - LONGEST_ESCAPE, stop)
            stop = escape if escape > start else stop
        piece = raw[start:stop].translate(None, WHITE_SPACE)
        text: str = from_json(b'"' + piece + b'"')
        yield text.encode("ascii")
        start = stop


def _decoded(encoded: Iterator[bytes]) -> Iterator[bytes]:
    """Decode base64 that arrives in pieces.

    Raises:
        binascii.Error: it contains other characters, or something after the padding.
    """
    rest, is_padded = b"", False
    for piece in encoded:
        quanta = rest + piece.translate(TO_STANDARD, WHITE_SPACE)
        if is_padded and quanta:
            raise binascii.Error
        whole = len(quanta) - len(quanta) % QUANTUM
        rest = quanta[whole:]
        quanta = quanta[:whole]
        is_padded = quanta.endswith(b"=")
        if quanta:
            yield binascii.a2b_base64(quanta, strict_mode=True)
    if is_padded and rest:
        raise binascii.Error
    if rest:
        yield binascii.a2b_base64(rest.rstrip(b"=") + b"=" * (QUANTUM - len(rest.rstrip(b"="))), strict_mode=True)
