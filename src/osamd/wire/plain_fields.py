"""Fields given as plain text, such as ``point=10,20&point=30,40&background=5,5``: queries, forms, the command line."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError
from pydantic_core import from_json

from osamd.errors import InvalidRequestError
from osamd.files import text_encoding
from osamd.wire.base64_text import LongText
from osamd.wire.json_bodies import MOST_BYTES, check_marks
from osamd.wire.schemas import SPELLINGS, GenerateBody, ImageFields
from osamd.wire.validation_errors import invalid_request

Body = TypeVar("Body", bound=ImageFields)

PROMPT_FIELDS: Final = frozenset({"point", "background", "box", "text", "mask_input", "everything"})
REPEATABLE: Final = frozenset({"point", "background", "text", "include"})
SWITCHES: Final = {"true": True, "1": True, "false": False, "0": False}
# In JSON.
DOCUMENTS: Final = frozenset({"prompt", "prompts"})
MODEL: Final = frozenset({"model", "model_id"})
IMAGES: Final = frozenset({"image", "image_base64"})
BASE64: Final = IMAGES | {"mask_input"}
LONGEST_FIELD: Final = 65_536
# Limit for a query or a form, whose parser is pure Python.
MOST_FIELDS: Final = 2048
XY, XYXY = 2, 4

Pairs = Sequence[tuple[str, str]]


def pairs_of(query: str) -> list[tuple[str, str]]:
    """The fields of a query string or a form.

    Raises:
        InvalidRequestError: it has too many, or is not UTF-8.
    """
    try:
        query = "&".join(map(_with_plus_signs, query.split("&", MOST_FIELDS)))
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        message = f"malformed query string or form: expected UTF-8 and at most {MOST_FIELDS:,} fields"
        raise InvalidRequestError(message) from None
    # A plus sign stands for a space here, but names of models contain no spaces: they are chains, A+B, left unescaped.
    return [(name, value.replace(" ", "+") if name in MODEL else value) for name, value in pairs]


def _with_plus_signs(part: str) -> str:
    """A field with the plus signs of base64 where they were not escaped, and do not stand for spaces."""
    if part.partition("=")[0] not in BASE64 or "%2B" in part or "%2b" in part:
        return part
    return part.replace("+", "%2B")


def refuse_query(query: str, schema: type[Body]) -> None:
    """Refuse fields in the query beside a body with fields: they would be ignored.

    Other query parameters, such as those added by a proxy, are allowed.

    Raises:
        InvalidRequestError: names the field.
    """
    for name, _ in pairs_of(query):
        if name in PROMPT_FIELDS or name in SPELLINGS or name in schema.model_fields:
            message = "put fields into the body; the query is only read beside a bare encoded image"
            raise InvalidRequestError(message, field=name)


def body_from_pairs(pairs: Iterable[tuple[str, str]]) -> GenerateBody:
    """The fields of ``/api/generate`` given as plain text; the command line uses the same format.

    Raises:
        InvalidRequestError: names the field that has the wrong form.
    """
    return fields_from(((name, text.encode("utf-8", "replace")) for name, text in pairs), GenerateBody)


def fields_from(pairs: Iterable[tuple[str, bytes]], schema: type[Body]) -> Body:
    """Parse fields in UTF-8 into a schema.

    Raises:
        InvalidRequestError: names the field that has the wrong form.
    """
    values: dict[str, Any] = {}
    prompt: dict[str, Any] = {}
    seen: set[str] = set()
    images: dict[str, LongText] = {}
    for name, content in pairs:
        if name in seen and name not in REPEATABLE:
            raise InvalidRequestError("expected this field only once", field=name)
        seen.add(name)
        if name in IMAGES or name == "mask_input":
            # Not copied into a string, since it may be most of the body.
            images[name] = LongText(content, 0, len(content), is_json=False)
            (values if name in IMAGES else prompt)[name] = name
            continue
        text = _text(name, content)
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
        return schema.model_validate(values, context=images)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False, include_context=False)) from None


def _text(name: str, content: bytes) -> str:
    most = MOST_BYTES if name in DOCUMENTS else LONGEST_FIELD
    if len(content) > most:
        raise InvalidRequestError(f"this field has {len(content):,} bytes; at most {most:,} are allowed", field=name)
    # As bodies of JSON are read; other text has no mark that tells.
    encoding = text_encoding(content) if name in DOCUMENTS else "utf-8"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise InvalidRequestError("not UTF-8", field=name) from None


def _add_to_prompt(prompt: dict[str, Any], name: str, text: str) -> None:
    match name:
        case "text":
            prompt.setdefault("texts", []).append(text)
        case "box":
            prompt["box"] = _numbers(text, XYXY, name)
        case "everything":
            prompt["everything"] = _switch_or_document(text)
        case _:
            prompt.setdefault("points", []).append(_numbers(text, XY, name))
            prompt.setdefault("point_labels", []).append(1 if name == "point" else 0)


def _switch_or_document(text: str) -> Any:
    if text.lower() in SWITCHES:
        return SWITCHES[text.lower()]
    try:
        return from_json(text)
    except (ValueError, RecursionError):
        raise InvalidRequestError("expected true, false or parameters as JSON", field="everything") from None


def _plain_value(name: str, text: str) -> Any:
    if name == "multimask":
        if text.lower() not in SWITCHES:
            raise InvalidRequestError("expected true or false", field=name)
        return SWITCHES[text.lower()]
    if name in DOCUMENTS:
        check_marks(text.encode(errors="replace"), name)
        try:
            return from_json(text)
        except (ValueError, RecursionError):
            raise InvalidRequestError("not JSON", field=name) from None
    return text


def _numbers(text: str, count: int, field: str) -> list[float]:
    parts = text.split(",", count)
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidRequestError(f"expected {count} numbers separated by commas", field=field)
    return numbers
