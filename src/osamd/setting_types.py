"""The types of settings: how each is written in an environment variable, and what it becomes."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, SecretStr, WithJsonSchema
from pydantic_settings import NoDecode

from osamd.files import at_home
from osamd.keep_alive import KeepAlive, parse_keep_alive

Item = TypeVar("Item")

HOST: Final = re.compile(r"(\*|(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*)(:[0-9]{1,5})?")
WEB_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
# As browsers write it: lower case, no path, no default port.
ORIGIN: Final = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
# Origins of extensions and desktop apps. Safari writes those of its extensions in upper case.
APP_ORIGIN: Final = re.compile(r"(?!https?:|file:)[a-z][a-z0-9+.-]*://([A-Za-z0-9._-]+(:[0-9]{1,5})?|\*)")


def lower_case(value: Any) -> Any:
    """Text in lower case, without blanks around it."""
    return value.strip().lower() if isinstance(value, str) else value


def _split(value: Any) -> Any:
    return tuple(entry.strip() for entry in value.split(",") if entry.strip()) if isinstance(value, str) else value


def _split_or_none(value: Any) -> Any:
    entries = _split(value)
    return () if isinstance(value, str) and entries == ("none",) else entries


def _origin(value: str) -> str:
    if value == "null":
        raise ValueError("`null` cannot be listed: it is the origin of sandboxed frames of any page")
    if ORIGIN.fullmatch(value) is None and APP_ORIGIN.fullmatch(value) is None:
        raise ValueError(
            "expected origins such as https://example.com, http://localhost:3000, chrome-extension://ID,"
            " app://obsidian.md or vscode-webview://*"
        )
    return value


def _host(value: str) -> str:
    if HOST.fullmatch(value) is None:
        raise ValueError("expected hosts such as example.com, *.example.com, example.com:8443 or *")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("expected addresses and networks such as 10.0.0.0/8") from None
    return value


def _web_address(value: str | None) -> str | None:
    if value is None or not value.strip():
        return None
    if WEB_ADDRESS.fullmatch(value.strip()) is None:
        raise ValueError("expected a URL such as http://label-studio:8080, without user name and password")
    return value.strip().rstrip("/")


def _secret(value: SecretStr | None) -> SecretStr | None:
    return value if value is not None and value.get_secret_value().strip() else None


# Separated by commas; `none` for none.
CommaList = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_split_or_none)]
# Separated by commas; `none` has no special meaning.
MirrorList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
# Of a page, an extension or an app, as in CORS.
Origin = Annotated[str, AfterValidator(_origin)]
# A name, `*.` and a name, or `*`, with an optional port.
Host = Annotated[str, AfterValidator(_host)]
# An address or network.
Network = Annotated[str, AfterValidator(_network)]
# Blank is unset.
WebAddress = Annotated[str | None, AfterValidator(_web_address)]
# Blank is unset.
Secret = Annotated[SecretStr | None, AfterValidator(_secret)]
# `~` is the home folder.
HomePath = Annotated[Path, AfterValidator(at_home)]
# Seconds, or with a unit; see `osamd.keep_alive`.
Duration = Annotated[
    KeepAlive,
    BeforeValidator(parse_keep_alive),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}),
]
