"""multipart/form-data: bytes in, named parts out."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from osamd.errors import InvalidRequestError
from osamd.wire.base64_text import decode_base64
from osamd.wire.pieces import find, pieces

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# Limit on parts, whose headers are parsed in Python.
MOST_PARTS: Final = 2048
# Limit on parameters of a part, which are slow to parse; a file name may contain a few semicolons.
MOST_PARAMETERS: Final = 32
AS_IT_IS: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})
BROKEN: Final = "the multipart body is broken"


@dataclass(slots=True)
class Part:
    """One part.

    Attributes:
        name: the field's name.
        is_file: whether it has a file name.
        content: its bytes.
    """

    name: str
    is_file: bool
    content: bytes


@dataclass(slots=True)
class _Reader:
    """The parser's callbacks."""

    parts: list[Part] = field(default_factory=list)
    header: list[bytes] = field(default_factory=list)
    value: list[bytes] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: list[bytes] = field(default_factory=list)

    def on_part_begin(self) -> None:
        self.headers, self.content = {}, []

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header.append(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value.append(data[start:end])

    def on_header_end(self) -> None:
        self.headers[b"".join(self.header).lower()] = b"".join(self.value).strip()
        self.header, self.value = [], []

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.content.append(data[start:end])

    def on_part_end(self) -> None:
        disposition = self.headers.get(b"content-disposition", b"")
        if disposition.count(b";") > MOST_PARAMETERS:
            raise InvalidRequestError(f"{BROKEN}: a Content-Disposition has more than {MOST_PARAMETERS} parameters")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise InvalidRequestError(f"{BROKEN}: a part's Content-Disposition has no name")
        name = options[b"name"].decode("utf-8", "replace")
        content = b"".join(self.content)
        self.content = []
        encoding = self.headers.get(b"content-transfer-encoding", b"").lower()
        if encoding == b"base64":
            content = decode_base64(content, field=name)
        elif encoding not in AS_IT_IS:
            shown = encoding.decode("ascii", "replace")
            message = f"the Content-Transfer-Encoding {shown} is not supported: send the part as binary"
            raise InvalidRequestError(message, field=name)
        self.parts.append(Part(name, b"filename" in options, content))


def read_parts(raw: bytes, content_type: str) -> list[Part]:
    """The parts of a body, in order.

    Args:
        raw: the whole body.
        content_type: the request's header, which has the boundary.

    Raises:
        InvalidRequestError: it is malformed, or has more than ``MOST_PARTS`` parts.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidRequestError(f"{BROKEN}: the Content-Type has no boundary")
    # The parser is slow on data that resembles a boundary.
    _check_count(raw, b"--" + boundary)
    reader = _Reader()
    callbacks: MultipartCallbacks = {
        "on_part_begin": reader.on_part_begin,
        "on_header_field": reader.on_header_field,
        "on_header_value": reader.on_header_value,
        "on_header_end": reader.on_header_end,
        "on_part_data": reader.on_part_data,
        "on_part_end": reader.on_part_end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        for piece in pieces(raw):
            parser.write(piece)
        parser.finalize()
    except (FormParserError, ValueError):
        raise InvalidRequestError(BROKEN) from None
    return reader.parts


def _check_count(raw: bytes, delimiter: bytes) -> None:
    position, count = find(raw, delimiter, 0), 0
    while position >= 0:
        count += 1
        # The last one ends the body.
        if count > MOST_PARTS + 1:
            raise InvalidRequestError(f"the multipart body has more than {MOST_PARTS:,} parts")
        position = find(raw, delimiter, position + len(delimiter))
