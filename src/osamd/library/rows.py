"""Read and check the TOML rows of a catalogue, reporting problems by row and field."""

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote_to_bytes, urlparse, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from osamd.library.families import CHAIN, FAMILIES

DEFAULT_TAG = "latest"
FILE_SCHEME = "file://"
PACKAGE_SCHEME = "package:"
WEB_SCHEMES = ("http://", "https://")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
# Our wording for pydantic's errors.
SENTENCES = {
    "missing": "is missing",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
LINE_CHARS = 300
FILENAME_BYTES = 255
SHOWN_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class CatalogProblem:
    """Why a row, or a whole file, was rejected.

    Attributes:
        file: the catalogue file.
        row: number of the ``[[model]]``, from 1; None for the whole file.
        name: the row's name, if it has one.
        field: path of the field at fault, such as ``blobs.encoder.sha256``; empty for the whole row.
        message: what is wrong, to be read after the field.
    """

    file: Path
    row: int | None
    name: str
    field: str
    message: str

    def __str__(self) -> str:
        """One line: file, row, field, message."""
        row = "" if self.row is None else f"row {self.row}" + (f" ({self.name})" if self.name else "")
        where = ", ".join(part for part in (row, self.field) if part)
        return f"{self.file}: {where} {self.message}" if where else f"{self.file}: {self.message}"


def filename_of(url: str) -> str:
    """The file name osam uses for a URL: the last segment of its path, not decoded."""
    return os.path.basename(urlparse(url).path)  # noqa: PTH119 - a URL's path, not a file's


def local_path(url: str) -> Path | None:
    """The file a ``file://`` URL names; None for any other URL."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(url).path))) if url.startswith(FILE_SCHEME) else None


def shown_url(url: str) -> str:
    """A URL for logs, listings and replies: without user name, password, query and fragment, which may be secrets."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "a URL that cannot be parsed"


def _wrong(message: str) -> PydanticCustomError:
    # Without a context the message is not a template, so braces in it are literal.
    return PydanticCustomError("row", message)


def _check_url(url: str, info: ValidationInfo) -> str:
    if not url.isprintable() or " " in url:
        raise _wrong("must not contain spaces or control characters")
    if url.startswith(PACKAGE_SCHEME):
        if info.context is None:
            raise _wrong("must not begin with package:, which is reserved for models that ship with osamd")
        return url
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise _wrong("is not a valid URL") from None
    if url.startswith(WEB_SCHEMES):
        if not has_host:
            raise _wrong("has no host")
    elif not url.startswith(FILE_SCHEME):
        raise _wrong("must begin with file://, http:// or https://")
    elif parts.netloc or not parts.path.startswith("/"):
        raise _wrong("must have an absolute path, as in file:///models/encoder.onnx")
    elif parts.query or parts.fragment or "\0" in str(local_path(url)):
        raise _wrong("must not contain ? or # (write %3F and %23) or a zero byte")
    return url


def _check_sha256(digest: str) -> str:
    if not SHA256.fullmatch(digest):
        raise _wrong("must be 64 hexadecimal digits")
    return digest.lower()


def _check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise _wrong("must be a name such as my-model or my-model:small, of letters, digits and . _ -")
    return name


def _check_line(text: str) -> str:
    if not text.isprintable() or len(text) > LINE_CHARS:
        raise _wrong(f"must be one line of at most {LINE_CHARS} characters")
    return text


def _check_link(url: str) -> str:
    if not url.startswith(WEB_SCHEMES):
        raise _wrong("must begin with http:// or https://")
    if "@" in url.split("/")[2]:
        raise _wrong("must not contain a user name or password: it is shown to everyone who lists models")
    return _check_line(url)


_Url = Annotated[str, AfterValidator(_check_url)]
_Sha256 = Annotated[str, AfterValidator(_check_sha256)]
_Name = Annotated[str, AfterValidator(_check_name)]
_Line = Annotated[str, AfterValidator(_check_line)]
_Link = Annotated[str, AfterValidator(_check_link)]


class FileRow(BaseModel):
    """A file that belongs to a blob: its URL and digest."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: _Url
    sha256: _Sha256 | None = Field(default=None, validate_default=True)
    bytes: int | None = Field(default=None, ge=0)

    @field_validator("sha256")
    @classmethod
    def _needed_from_afar(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and not info.data.get("url", FILE_SCHEME).startswith(FILE_SCHEME):
            raise _wrong("is missing; only a file:// blob may omit it")
        return value


class BlobRow(FileRow):
    """``[model.blobs.ROLE]``."""

    attachments: list[FileRow] = Field(default_factory=list)

    @field_validator("attachments")
    @classmethod
    def _lie_beside_the_blob(cls, value: list[FileRow], info: ValidationInfo) -> list[FileRow]:
        url = info.data.get("url")
        if url is None or not value:
            return value
        names = [filename_of(url), *(filename_of(row.url) for row in value)]
        if any(name in {"", ".", ".."} or len(os.fsencode(name)) > FILENAME_BYTES for name in names):
            raise _wrong("and their blob must have URLs that end in a file's name")
        if len(set(names)) < len(names):
            raise _wrong("and their blob must have different file names")
        home = local_path(url)
        if {_parent(row.url) for row in value} != {home.parent if home else None}:
            raise _wrong("must be in the same folder as a file:// blob, and come from the web if their blob does")
        return value


def _parent(url: str) -> Path | None:
    path = local_path(url)
    return path.parent if path else None


class Row(BaseModel):
    """``[[model]]``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: _Name
    family: str
    aliases: list[_Name] = Field(default_factory=list)
    license: _Line = ""
    license_url: _Link = ""
    source_url: _Link = ""
    blobs: dict[str, BlobRow] = Field(default_factory=dict, validate_default=True)
    detector: _Name | None = Field(default=None, validate_default=True)
    segmenter: _Name | None = Field(default=None, validate_default=True)

    @field_validator("name")
    @classmethod
    def _with_tag(cls, value: str) -> str:
        return value if ":" in value else f"{value}:{DEFAULT_TAG}"

    @field_validator("family")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in FAMILIES and value != CHAIN:
            raise _wrong(f"must be one of {', '.join([*FAMILIES, CHAIN])}")
        return value

    @field_validator("blobs")
    @classmethod
    def _fit_the_family(cls, value: dict[str, BlobRow], info: ValidationInfo) -> dict[str, BlobRow]:
        family = info.data.get("family")
        if family is None:
            return value
        if family == CHAIN:
            if value:
                raise _wrong("must be left out: the files of a chain are those of its detector and its segmenter")
            return value
        if not value:
            raise _wrong("is missing")
        roles = FAMILIES[family].roles
        lacking = [role for role in roles if role not in value]
        if lacking:
            raise _wrong(f"must have {' and '.join(lacking)}, which the family {family} requires")
        if len(value) > len(roles):
            raise _wrong(f"must only have {' and '.join(roles)}, the files of the family {family}")
        return value

    @field_validator("detector", "segmenter")
    @classmethod
    def _belongs_to_a_chain(cls, value: str | None, info: ValidationInfo) -> str | None:
        family = info.data.get("family")
        if family == CHAIN and value is None:
            raise _wrong("is missing; expected the name of a model")
        if family not in {CHAIN, None} and value is not None:
            raise _wrong(f"is only for the family {CHAIN}")
        return value


def read_rows(text: str, file: Path, *, is_shipped: bool = False) -> tuple[dict[int, Row], list[CatalogProblem]]:
    """The valid rows of a catalogue by number, from 1, and the problems of the others.

    Args:
        text: TOML.
        file: its name, for the problems.
        is_shipped: whether it is osamd's own catalogue, whose rows may name files inside the package.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, [CatalogProblem(file, None, "", "", f"is not valid TOML: {error}")]
    problems = [
        CatalogProblem(file, None, "", key, "is unknown; models are rows that begin with [[model]]")
        for key in document
        if key != "model"
    ]
    tables = document.get("model", [])
    if not isinstance(tables, list):
        return {}, [*problems, CatalogProblem(file, None, "", "model", "must be rows that begin with [[model]]")]
    rows = {}
    for number, table in enumerate(tables, start=1):
        try:
            rows[number] = Row.model_validate(table, context="shipped" if is_shipped else None)
        except ValidationError as error:
            name = table.get("name") if isinstance(table, dict) else None
            shown = _shown(name) if isinstance(name, str) else ""
            problems += [
                CatalogProblem(file, number, shown, _path(detail["loc"]), _sentence(detail))
                for detail in error.errors(include_input=False, include_url=False)
            ]
    return rows, problems


def _shown(name: str) -> str:
    """An unchecked name, safe for one line of a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:SHOWN_NAME_CHARS])


def _path(location: tuple[int | str, ...]) -> str:
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in location)
    return parts.removeprefix(".")


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return f"is unknown; expected one of: {', '.join(_fields_at(len(detail['loc'])))}"
    return SENTENCES.get(detail["type"], detail["msg"][:1].lower() + detail["msg"][1:])


def _fields_at(depth: int) -> list[str]:
    """The keys a table may have: a row's, a blob's three steps down, an attachment's five steps down."""
    tables: dict[int, type[BaseModel]] = {1: Row, 3: BlobRow}
    return list(tables.get(depth, FileRow).model_fields)
