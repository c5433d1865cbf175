"""Request bodies as JSON, multipart and bare images: bytes in, one schema and the image's bytes out.

Parsing takes time, so it belongs on a thread.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import python_multipart
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File

from osamd.errors import BodyTooLargeError, InvalidImageError, InvalidRequestError
from osamd.types import ImageSource
from osamd.wire.schemas import SPELLINGS, GenerateBody, ImageFields, WireModel, decode_base64, invalid_request

Body = TypeVar("Body", bound=ImageFields)
Fields = TypeVar("Fields", bound=WireModel)

JSON_TYPES = frozenset({"application/json", "text/json"})
MULTIPART_TYPE = "multipart/form-data"
WHOLE_BODY_IN_MEMORY = 1 << 40
PROMPT_FIELDS = frozenset({"point", "background", "box", "text", "mask_input"})
REPEATABLE = frozenset({"point", "background", "text", "include"})
SWITCHES = {"true": True, "1": True, "false": False, "0": False}
XY = 2
# Commas and opening brackets in JSON: far more than the largest prompts need, and than osam's nested embeddings have.
MOST_MARKS = 100_000
MOST_MARKS_WITH_EMBEDDING = 2_500_000
# Fields of a query or parts of a multipart body, whose parser is pure Python.
MOST_FIELDS = 2048
XYXY = 4


@dataclass(frozen=True, slots=True)
class ParsedBody(Generic[Body]):
    """A request's fields and where its pixels are; None where they are behind ``image_url``."""

    fields: Body
    image: ImageSource | None


def parse_body(
    raw: bytes, content_type: str, query: str, schema: type[Body], image_root: Path | None, most: int
) -> ParsedBody[Body]:
    """Parse a body of any of the accepted kinds.

    Args:
        raw: the whole body.
        content_type: the request's header.
        query: the request's query string.
        schema: what the fields must fit.
        image_root: folder that ``image_path`` may name files in; None refuses ``image_path``.
        most: largest size of such a file, in bytes.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
        BodyTooLargeError: the named file is too large.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    data: bytes | None = None
    # Clients that forget the header, or leave curl's default, are understood by the first byte.
    if media_type in JSON_TYPES or media_type.endswith("+json") or raw[:64].lstrip()[:1] == b"{":
        _refuse_query(query, schema)
        fields = from_json(raw, schema)
    elif media_type == MULTIPART_TYPE:
        _refuse_query(query, schema)
        fields, data = _from_multipart(raw, content_type, schema)
    else:
        fields = _from_pairs(_pairs(query), schema)
        data = raw or None
        if data is None and fields.image_id is None and fields.image_url is None:
            raise InvalidRequestError("the body is empty: JSON, multipart/form-data or an encoded image is wanted")
    return ParsedBody(fields, _image_source(fields, data, image_root, most))


def _refuse_query(query: str, schema: type[Body]) -> None:
    """Fields in the query of a body that has fields of its own would be ignored, so they are refused.

    What is no field of ours, such as what a proxy added, is none of our business.
    """
    for name, _ in _pairs(query):
        if name in PROMPT_FIELDS or name in SPELLINGS or name in schema.model_fields:
            message = "fields go into the body; in the query only beside an encoded image as it is"
            raise InvalidRequestError(message, field=name)


def from_json(raw: bytes, schema: type[Fields]) -> Fields:
    """Parse a JSON body.

    Raises:
        InvalidRequestError: it has the wrong form; the message names the field.
    """
    if not raw.strip():
        raise InvalidRequestError("the body is empty: JSON, multipart/form-data or an encoded image is wanted")
    # Parsing holds the interpreter's lock, so what would take long is refused before. Base64 has no such marks.
    count = _marks(raw)
    if MOST_MARKS < count <= MOST_MARKS_WITH_EMBEDDING:
        from osamd.wire.nested_lists import respell  # noqa: PLC0415 - NumPy is not needed before the first image

        raw = respell(raw)
        count = _marks(raw)
    _check_marks(count)
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False, include_context=False)) from None


def _marks(raw: bytes) -> int:
    return sum(raw.count(mark) for mark in (b",", b"[", b"{"))


def _check_marks(count: int, field: str | None = None) -> None:
    if count > MOST_MARKS:
        message = f"the JSON has more than {MOST_MARKS:,} values outside a well-formed embedding"
        raise InvalidRequestError(message, field=field)


def _parts(raw: bytes, content_type: str) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """The fields and the files of a multipart body."""
    pairs: list[tuple[str, str]] = []
    files: dict[str, bytes] = {}
    count = 0

    def count_part() -> None:
        nonlocal count
        count += 1
        if count > MOST_FIELDS:
            raise InvalidRequestError(f"the multipart body has more than {MOST_FIELDS:,} parts")

    def on_field(field: Field) -> None:
        count_part()
        name = (field.field_name or b"").decode("utf-8", "replace")
        pairs.append((name, (field.value or b"").decode("utf-8", "replace")))

    def on_file(file: File) -> None:
        count_part()
        name = (file.field_name or b"").decode("utf-8", "replace")
        if name in files:
            raise InvalidRequestError("more than one file", field=name)
        file.file_object.seek(0)
        files[name] = file.file_object.read()

    headers = {"Content-Type": content_type.encode("latin-1")}
    config: dict[str, Any] = {"MAX_MEMORY_FILE_SIZE": WHOLE_BODY_IN_MEMORY}
    try:
        parser = python_multipart.create_form_parser(headers, on_field, on_file, config=config)
        parser.write(raw)
        parser.finalize()
        parser.close()
    except (FormParserError, ValueError):
        raise InvalidRequestError("the multipart body is broken") from None
    return pairs, files


def _from_multipart(raw: bytes, content_type: str, schema: type[Body]) -> tuple[Body, bytes | None]:
    pairs, files = _parts(raw, content_type)
    documents = [files.pop("request")] if "request" in files else []
    documents += [value.encode() for name, value in pairs if name == "request"]
    plain = [(name, value) for name, value in pairs if name != "request"]
    data = files.pop("image", None)
    if files:
        raise InvalidRequestError("no such file field; image and request are known", field=next(iter(files)))
    if data == b"":
        raise InvalidRequestError("the image is empty", field="image")
    if not documents:
        return _from_pairs(plain, schema), data
    if plain or len(documents) > 1:
        raise InvalidRequestError("give one request, or plain fields, not both", field="request")
    return from_json(documents[0], schema), data


def body_from_pairs(pairs: Iterable[tuple[str, str]]) -> GenerateBody:
    """The fields of ``/api/generate`` given as plain text; the command line uses the same spelling.

    Raises:
        InvalidRequestError: names the field that has the wrong form.
    """
    return _from_pairs(pairs, GenerateBody)


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidRequestError("the query string is broken or too long") from None


def _from_pairs(pairs: Iterable[tuple[str, str]], schema: type[Body]) -> Body:
    """Fields given as plain text, such as ``point=10,20&point=30,40&background=5,5``."""
    values: dict[str, Any] = {}
    prompt: dict[str, Any] = {}
    seen: set[str] = set()
    for name, text in pairs:
        if name in seen and name not in REPEATABLE:
            raise InvalidRequestError("given more than once", field=name)
        seen.add(name)
        if name in PROMPT_FIELDS:
            _add_to_prompt(prompt, name, text)
        elif name == "include":
            values.setdefault(name, []).extend(part.strip() for part in text.split(",") if part.strip())
        else:
            values[name] = _plain_value(name, text)
    if prompt:
        if "prompt" in values:
            raise InvalidRequestError("give either prompt or point, background, box and text", field="prompt")
        values["prompt"] = prompt
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False, include_context=False)) from None


def _add_to_prompt(prompt: dict[str, Any], name: str, text: str) -> None:
    match name:
        case "text":
            prompt.setdefault("texts", []).append(text)
        case "box":
            prompt["box"] = _numbers(text, XYXY, name)
        case "mask_input":
            prompt["mask_input"] = text
        case _:
            prompt.setdefault("points", []).append(_numbers(text, XY, name))
            prompt.setdefault("point_labels", []).append(1 if name == "point" else 0)


def _plain_value(name: str, text: str) -> Any:
    if name == "multimask":
        if text.lower() not in SWITCHES:
            raise InvalidRequestError("true or false is wanted", field=name)
        return SWITCHES[text.lower()]
    if name in {"prompt", "prompts"}:
        _check_marks(_marks(text.encode(errors="replace")), name)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidRequestError("not JSON", field=name) from None
    return text


def _numbers(text: str, count: int, field: str) -> list[float]:
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidRequestError(f"{count} numbers separated by commas are wanted", field=field)
    return numbers


def _image_source(fields: ImageFields, data: bytes | None, image_root: Path | None, most: int) -> ImageSource | None:
    kept = fields.image_embedding if isinstance(fields, GenerateBody) else None
    if kept is not None and fields.image_id is None and fields.image_path is None:
        # osam's clients send the image along; the embedding saves encoding it again.
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
        raise InvalidRequestError("the image is given twice", field="image")
    if not given:
        raise InvalidRequestError(
            "no image: give image, image_id, image_path, image_url or image_embedding", field="image"
        )
    if len(given) > 1:
        raise InvalidRequestError(f"give one image, not {' and '.join(given)}", field=given[-1])
    if fields.image_url is not None:
        return None
    if fields.image_id is not None:
        return ImageSource(image_id=fields.image_id)
    if fields.image_path is not None:
        return ImageSource.of_bytes(_read_file(fields.image_path, image_root, most))
    return ImageSource.of_bytes(data if data is not None else decode_base64(fields.image or ""))


def _read_at_most(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BodyTooLargeError(f"the file is larger than the {most:,} bytes that are allowed", field="image_path")
    return data


def _read_file(name: str, root: Path | None, most: int) -> bytes:
    """A file below the root, symbolic links resolved; nothing is told about files outside it."""
    if root is None:
        raise InvalidRequestError(
            "files on the server are not read: send the image, or let the operator set OSAMD_IMAGE_ROOT",
            field="image_path",
        )
    try:
        folder = root.resolve()
        path = (folder / name).resolve()
        data = _read_at_most(path, most) if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError):
        data = None
    if data is None:
        raise InvalidRequestError("no such file in the server's image folder", field="image_path")
    if not data:
        raise InvalidImageError("the file is empty", field="image_path")
    return data
