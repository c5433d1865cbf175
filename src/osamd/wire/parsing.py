"""Request bodies as JSON, multipart, forms and bare images: bytes in, one schema and the image's bytes out.

Parsing takes time, so it belongs on a thread.
"""

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic

from osamd.errors import InvalidRequestError, UnsupportedMediaError, shown
from osamd.image_sources import ImageSource
from osamd.wire.base64_text import decode_base64
from osamd.wire.image_paths import read_image_path
from osamd.wire.json_bodies import EMPTY, from_json
from osamd.wire.mask_inputs import check_mask_bytes
from osamd.wire.multipart import read_parts
from osamd.wire.pieces import ENOUGH_TO_DETECT, as_utf8
from osamd.wire.plain_fields import Body, fields_from, pairs_of, refuse_query
from osamd.wire.schemas import GenerateBody, ImageFields

JSON_TYPES: Final = frozenset({"application/json", "text/json"})
MULTIPART_TYPE: Final = "multipart/form-data"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
# curl also sends bare images with this type; they start differently.
FORM: Final = re.compile(rb"[A-Za-z_]{1,64}=")
# Forms are decoded in Python, which is slow.
MOST_FORM_BYTES: Final = 1_000_000
LOOKED_AT: Final = 256
ENCODINGS_AS_IT_IS: Final = frozenset({"", "identity"})


@dataclass(frozen=True, slots=True)
class ParsedBody(Generic[Body]):
    """A request's fields and its image; None if it is to be fetched from ``image_url``."""

    fields: Body
    image: ImageSource | None


def check_encoding(encoding: str) -> None:
    """Refuse a compressed body: its size would only be known after decompression.

    Args:
        encoding: the header Content-Encoding.

    Raises:
        UnsupportedMediaError: it is compressed.
    """
    if encoding.strip().lower() not in ENCODINGS_AS_IT_IS:
        message = (
            f"Content-Encoding: {shown(encoding)} is not supported: send the body uncompressed, without this header"
        )
        raise UnsupportedMediaError(message)


def parse_body(
    raw: bytes, content_type: str, query: str, schema: type[Body], image_root: Path | None, most: int
) -> ParsedBody[Body]:
    """Parse a body of any accepted type.

    Args:
        raw: the whole body.
        content_type: the request's header.
        query: the request's query string.
        schema: the expected schema.
        image_root: folder that ``image_path`` may read from; None refuses ``image_path``.
        most: largest size of such a file, in bytes.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        BodyTooLargeError: the named file is too large.
        UnsupportedMediaError: a form is too large.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    data: bytes | None = None
    # For clients that omit the header, or leave curl's default, the first byte decides.
    if media_type in JSON_TYPES or media_type.endswith("+json") or _looks_like_json(raw):
        refuse_query(query, schema)
        fields = from_json(raw, schema)
    elif media_type == MULTIPART_TYPE:
        refuse_query(query, schema)
        fields, data = _from_multipart(raw, content_type, schema)
    elif media_type == FORM_TYPE and FORM.match(raw):
        refuse_query(query, schema)
        fields = _from_form(raw, schema)
    else:
        fields = fields_from(((name, text.encode()) for name, text in pairs_of(query)), schema)
        data = raw or None
        if data is None and fields.image_id is None and fields.image_url is None:
            raise InvalidRequestError(EMPTY)
    image = _image_source(fields, data, image_root, most)
    # The fields live as long as the request; free large values that are no longer needed.
    fields.image = None
    if isinstance(fields, GenerateBody):
        fields.image_embedding = None
    return ParsedBody(fields, image)


def _looks_like_json(raw: bytes) -> bool:
    try:
        head, start = as_utf8(raw[: LOOKED_AT - LOOKED_AT % ENOUGH_TO_DETECT])
    except UnicodeDecodeError:
        return False
    return head[start:].lstrip()[:1] == b"{"


def _from_form(raw: bytes, schema: type[Body]) -> Body:
    if len(raw) > MOST_FORM_BYTES:
        message = f"a form of this type is limited to {MOST_FORM_BYTES:,} bytes: send JSON or multipart/form-data"
        raise UnsupportedMediaError(message)
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidRequestError("malformed form: expected percent-encoded UTF-8") from None
    return fields_from(((name, value.encode()) for name, value in pairs_of(text)), schema)


def _from_multipart(raw: bytes, content_type: str, schema: type[Body]) -> tuple[Body, bytes | None]:
    parts = read_parts(raw, content_type)
    documents = [part.content for part in parts if part.name == "request"]
    plain = [(part.name, part.content) for part in parts if not part.is_file and part.name != "request"]
    files = [part for part in parts if part.is_file and part.name != "request"]
    data: bytes | None = None
    for part in files:
        if part.name == "mask_input":
            check_mask_bytes(len(part.content), part.name)
            plain.append((part.name, base64.b64encode(part.content)))
            continue
        if part.name != "image":
            raise InvalidRequestError("unknown file field: expected image, mask_input or request", field=part.name)
        if data is not None:
            raise InvalidRequestError("expected a single file", field=part.name)
        if not part.content:
            raise InvalidRequestError("the image is empty", field="image")
        data = part.content
    if not documents:
        return fields_from(plain, schema), data
    if plain or len(documents) > 1:
        raise InvalidRequestError("give either one request part or plain fields", field="request")
    return from_json(documents[0], schema), data


def _image_source(fields: ImageFields, data: bytes | None, image_root: Path | None, most: int) -> ImageSource | None:
    kept = fields.image_embedding if isinstance(fields, GenerateBody) else None
    if kept is not None and fields.image_id is None and fields.image_path is None:
        # osam's clients send the image too; the embedding saves encoding it again.
        return ImageSource.of_embedding(kept.to_exchanged())
    given = [
        name
        for name, value in (
            ("image", fields.image if data is None else data),
            ("image_id", fields.image_id),
            ("image_path", fields.image_path),
            ("image_url", fields.image_url),
        )
        if value is not None
    ]
    if data is not None and fields.image is not None:
        raise InvalidRequestError("the image was given twice", field="image")
    if not given:
        raise InvalidRequestError(
            "expected an image: give image, image_id, image_path, image_url or image_embedding", field="image"
        )
    if len(given) > 1:
        raise InvalidRequestError(f"expected a single image, got {' and '.join(given)}", field=given[-1])
    if fields.image_url is not None:
        return None
    if fields.image_id is not None:
        return ImageSource(image_id=fields.image_id)
    if fields.image_path is not None:
        return ImageSource.of_bytes(read_image_path(fields.image_path, image_root, most))
    return ImageSource.of_bytes(data if data is not None else decode_base64(fields.image or "", field="image"))
