"""One Settings object. A flag beats the environment, the environment beats a .env file, that beats the default.

Variables are ``OSAMD_<FIELD>``, except those that hosts and the seed document fix (``API_KEY``, ``APP_ENV``, ``PORT``),
``API_KEY_FILE``, and osam's ``OSAM_ONNX_PROVIDERS`` and ``OSAM_BLOB_ENDPOINT``.
"""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from osamd.errors import SettingsError
from osamd.files import at_home, encoding_of
from osamd.keep_alive import KeepAlive, parse_keep_alive

MaskLayout = Literal["full", "crop"]
Include = Literal["image_embedding", "image_embedding_compact"]
Device = Literal["auto", "cpu", "cuda"]
LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

MEBIBYTE = 1024 * 1024
HOST = re.compile(r"(\*|(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*)(:[0-9]{1,5})?")
# As browsers write it: lower case, no path, and no port where it is the scheme's own.
ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
# Of extensions and desktop apps. Safari writes its extensions' in upper case.
APP_ORIGIN = re.compile(r"(?!https?:|file:)[a-z][a-z0-9+.-]*://([A-Za-z0-9._-]+(:[0-9]{1,5})?|\*)")
USER_CATALOG = "~/.config/osamd/models.toml"


class Settings(BaseSettings):
    """Every setting of osamd, documented once, here."""

    model_config = SettingsConfigDict(
        env_prefix="OSAMD_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("api_key", "API_KEY"),
        description="The secret of the key named API_KEY, an admin; at least 16 characters outside development. With"
        " neither this nor API_KEY_FILE a server in production answers 500.",
    )
    api_key_file: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("api_key_file", "API_KEY_FILE"),
        description="File with more keys, one `name role secret` or `name role sha256:HEX` a line, roles `admin` and"
        " `user`; a change is seen within a second. `osamd keys new` makes lines for it.",
    )
    wrong_keys_per_minute: int = Field(
        default=20,
        ge=1,
        description="Wrong keys an address may try in a minute before it gets 429, and keys that were not right there"
        " before are compared 2 s late. A right key passes.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins that may call, separated by commas: of web pages (`https://example.com`), extensions"
        " (`chrome-extension://ID`, `moz-extension://*`) and desktop apps (`app://obsidian.md`, `tauri://localhost`,"
        " `vscode-webview://*`).",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses and networks of proxies whose X-Forwarded-For is believed, separated by commas.",
    )
    app_env: Literal["production", "development"] = Field(
        default="production",
        validation_alias=AliasChoices("app_env", "APP_ENV"),
        description="In `development` the check is off while there is no key, with a warning.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; `localhost` and `::` mean IPv4 and IPv6. Nothing beyond loopback unless"
        " asked.",
    )
    port: int = Field(
        default=11368,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("port", "PORT"),
        description="Port to listen on; 0 picks a free one.",
    )
    cache: Path = Field(
        default=Path("~/.cache/osam"),
        validate_default=True,
        description="Where model blobs live, in osam's own layout; our own files go into its `osamd` folder.",
    )
    catalog: Path | None = Field(
        default=None,
        description="File with your own models, in rows like those of osamd's catalog.toml."
        " Unset: ~/.config/osamd/models.toml, if it is there.",
    )
    blob_endpoint: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        validation_alias=AliasChoices("blob_endpoint", "OSAM_BLOB_ENDPOINT"),
        description="Mirrors of the blobs, separated by commas, tried in order, as in osam: each serves a blob under"
        " its bare SHA-256. The word `direct` stands for the blob's own URL, which is not tried unless named.",
    )
    pull: Literal["auto", "never"] = Field(
        default="auto",
        description="`auto` pulls a model at its first use over HTTP; `never` lets only `osamd pull` do that.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="The models callers may have pulled, separated by commas; unset allows the whole catalogue.",
    )
    pull_wait_s: float = Field(
        default=60.0, gt=0, description="Seconds a request waits for a model that is being pulled before it gets 503."
    )
    model_memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Loaded models' files together, in bytes; the least recently used one goes first. Unset: half of"
        " this machine's memory.",
    )
    keep_alive: KeepAlive = Field(
        default=None,
        description="How long a model stays loaded after a request: `5m`, seconds, `0` not at all, `-1` for good."
        " Unset: until its room is needed. Keys with the role `user` cannot ask for longer.",
    )
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("builtin",),
        description="Models loaded at start, separated by commas; /ready waits for them. `none` loads nothing.",
    )
    device: Device = Field(
        default="auto",
        description="Where models run: `auto` takes CUDA when it is there. With `cuda` the server is not ready until"
        " a model has run there, and never falls back to the CPU.",
    )
    onnx_providers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        validation_alias=AliasChoices("onnx_providers", "OSAM_ONNX_PROVIDERS"),
        description="ONNX Runtime providers by name, separated by commas, as in osam; overrides OSAMD_DEVICE.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Threads of one inference; 0 means one per core that the process, or its container, may use.",
    )
    encode_queue: int = Field(default=16, ge=1, description="Images that may wait to be encoded.")
    decode_queue: int = Field(default=256, ge=1, description="Prompts' requests that may wait to be decoded.")
    queue_wait_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may wait in one of these queues before it gets 503."
    )
    deadline_s: float = Field(
        default=120.0, gt=0, description="Seconds a request may take, its body included, before it gets 504."
    )
    requests_per_minute: int = Field(default=6000, ge=1, description="Requests a key may make in a minute.")
    encodes_per_minute: int = Field(
        default=3000, ge=1, description="Images a key may have encoded in a minute; known ones do not count."
    )
    concurrent_requests: int = Field(
        default=32, ge=1, description="Requests of one key that are worked on at once; more get 429."
    )
    uploads: int = Field(
        default=32,
        ge=1,
        description="Requests with bodies above 8 KiB, so with images, that are worked on at once; more get 503 before"
        " their body is read. One key leaves room for others: alone it may have three quarters.",
    )
    upload_bytes: int = Field(
        default=256 * MEBIBYTE,
        ge=1024,
        description="Bytes of their bodies together, as declared, shared likewise; one of undeclared length counts as"
        " the largest.",
    )
    mask_memory_bytes: int = Field(
        default=1024 * MEBIBYTE,
        ge=4 * MEBIBYTE,
        description="Memory of masks and replies of all requests together, from decoding to the last byte sent, in"
        " bytes; requests wait for it, and get 503 if none becomes free. One key leaves room for others: alone it may"
        " have three quarters.",
    )
    max_connections: int = Field(
        default=512, ge=1, description="Open connections; idle ones make room for new ones, else new ones get 503."
    )
    keyless_connections: int = Field(
        default=128,
        ge=1,
        description="Open connections of one address (a /64 of IPv6) on which no right key was sent; more are closed."
        " Those of OSAMD_TRUSTED_PROXIES do not count.",
    )
    idle_s: float = Field(
        default=130.0,
        gt=0,
        description="Seconds a connection may be idle between requests. Longer than proxies keep theirs, since a"
        " request sent on one that is just being closed fails: nginx and AWS's load balancers keep them 60 s, Traefik"
        " and Azure Front Door 90, Caddy 120. Behind Google's load balancers set 620, behind Cloudflare 910.",
    )
    head_s: float = Field(
        default=10.0, gt=0, description="Seconds in which the head of a request must be here, from the connection on."
    )
    receive_s: float = Field(default=60.0, gt=0, description="Seconds in which a body must be here, else 408.")
    receive_idle_s: float = Field(default=10.0, gt=0, description="Seconds a body may pause, else 408.")
    send_idle_s: float = Field(
        default=30.0, gt=0, description="Seconds a client may take to read some of its answer before it is cut off."
    )
    hang_s: float = Field(
        default=150.0,
        gt=0,
        description="Seconds after which a computation that still runs counts as hung: its request fails and its worker"
        " is replaced.",
    )
    grace_s: float = Field(
        default=25.0,
        gt=0,
        description="Seconds that what runs has when the server is told to stop. Hosts kill after 30, Docker after 10.",
    )
    embedding_cache_bytes: int = Field(
        default=512 * MEBIBYTE, ge=0, description="Memory for embeddings of recent images, in bytes."
    )
    embedding_ttl_s: float = Field(
        default=3600.0, gt=0, description="Seconds an unused embedding, and so its image_id, is remembered."
    )
    embedding_disk_bytes: int = Field(
        default=0,
        ge=0,
        description="Room on the disk for embeddings, below OSAMD_CACHE, in bytes: a server that slept still knows its"
        " images. 0 keeps none there.",
    )
    embedding_disk_ttl_s: float = Field(
        default=7 * 86400.0, gt=0, description="Seconds an unused embedding is kept on the disk."
    )
    max_body_bytes: int = Field(default=64 * MEBIBYTE, ge=1024, description="Largest request body, in bytes.")
    max_image_pixels: int = Field(
        default=64_000_000,
        ge=1,
        le=170_000_000,
        description="Largest image, in pixels; checked before decoding.",
    )
    decode_s: float = Field(
        default=4.0,
        gt=0,
        description="CPU seconds that decoding one image may take; after that its process is killed and the request"
        " gets 422.",
    )
    max_mask_pixels: int = Field(
        default=400_000_000,
        ge=1,
        description="Pixels of all masks' boxes of one request; a byte of memory each. Masks written at the image's"
        " size (`mask_layout` full, as PNG or run lengths) may have four times as many.",
    )
    max_prompts: int = Field(default=64, ge=1, le=1024, description="Prompts in one request.")
    max_points: int = Field(default=256, ge=1, description="Points in one prompt.")
    max_boxes: int = Field(default=64, ge=1, description="Boxes in one prompt.")
    max_texts: int = Field(default=64, ge=1, description="Texts in one prompt.")
    max_text_chars: int = Field(default=256, ge=1, description="Characters in one text.")
    image_root: Path | None = Field(
        default=None,
        description="Folder below which `image_path` may name files. Unset: refused, except in development on"
        " loopback, where it is the working directory.",
    )
    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts from which `image_url` may name images, separated by commas: `example.com`,"
        " `*.example.com`, `example.com:8443`, or `*` for every public one. Unset: nothing is fetched.",
    )
    url_schemes: Annotated[tuple[Literal["http", "https"], ...], NoDecode] = Field(
        default=("https",), description="Schemes such a URL may have, separated by commas."
    )
    url_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks, separated by commas, where such hosts may be although their addresses are not public.",
    )
    url_bytes: int = Field(default=16 * MEBIBYTE, ge=1, description="Largest image behind a URL, in bytes.")
    url_s: float = Field(default=10.0, gt=0, description="Seconds in which it must be here, redirects included.")
    url_fetches: int = Field(default=4, ge=1, le=64, description="Images that are fetched at once; more get 503.")
    mask_layout: MaskLayout = Field(
        default="full", description="Default `mask_layout`: `full` covers the image, `crop` its box (osam >= 0.4)."
    )
    include: Annotated[tuple[Include, ...], NoDecode] = Field(
        default=(), description="Default `include`: `image_embedding` for osam clients that expect it in each reply."
    )
    docs: Literal["on", "off"] = Field(
        default="on", description="Whether /docs, /openapi.json and /playground are served."
    )
    log_level: LogLevel = Field(default="info", description="What is written to the log.")
    log_format: LogFormat = Field(
        default="auto",
        description="`json`: an object a line on stdout; `text`: for people, on stderr. `auto`: text in development or"
        " in a terminal, else JSON.",
    )

    @field_validator(
        *("models", "preload", "onnx_providers", "include", "cors_origins"),
        *("trusted_proxies", "url_hosts", "url_schemes", "url_networks"),
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            names = [name.strip() for name in value.split(",") if name.strip()]
            return () if names == ["none"] else tuple(names)
        return value

    @field_validator("blob_endpoint", mode="before")
    @classmethod
    def _split_endpoints(cls, value: Any) -> Any:
        # No word but osam's `direct` has a meaning here, so this is not _split_commas.
        return tuple(entry.strip() for entry in value.split(",") if entry.strip()) if isinstance(value, str) else value

    @field_validator("keep_alive", mode="before")
    @classmethod
    def _parse_keep_alive(cls, value: Any) -> Any:
        return parse_keep_alive(value)

    @field_validator("app_env", mode="before")
    @classmethod
    def _fold_case(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "null":
                raise ValueError("`null` cannot be listed: it is the origin of sandboxed frames of any page")
            if ORIGIN.fullmatch(origin) is None and APP_ORIGIN.fullmatch(origin) is None:
                raise ValueError(
                    "expected origins such as https://example.com, http://localhost:3000, chrome-extension://ID,"
                    " app://obsidian.md or vscode-webview://*"
                )
        return value

    @field_validator("url_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if HOST.fullmatch(host) is None:
                raise ValueError("hosts such as example.com, *.example.com, example.com:8443 or * are wanted")
        return value

    @field_validator("trusted_proxies", "url_networks")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError("addresses and networks such as 10.0.0.0/8 are wanted") from None
        return value

    @field_validator("cache", "catalog", "image_root", "api_key_file")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return None if value is None else at_home(value)

    @field_validator("api_key")
    @classmethod
    def _blank_is_unset(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value().strip() else None

    @property
    def user_catalog(self) -> Path | None:
        """The file to read the user's own models from: the one that was named, or the usual one if it is there."""
        usual = at_home(Path(USER_CATALOG))
        return self.catalog or (usual if os.path.exists(usual) else None)  # noqa: PTH110 - Path's own may raise


def variable_of(field: str) -> str:
    """The environment variable of a field, such as ``OSAMD_DEVICE`` or ``API_KEY``."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[1]) if isinstance(alias, AliasChoices) else f"OSAMD_{field.upper()}"


def load_settings(*, env_file: Path | None = None, **flags: object) -> Settings:
    """Read the settings.

    Args:
        env_file: a .env file to read below the real environment, or None.
        flags: fields set on the command line; None means not given.

    Raises:
        SettingsError: names each variable that has a value it cannot have, never the value; or the file cannot be read.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        given |= {"_env_file": env_file, "_env_file_encoding": encoding_of(env_file)}
        return Settings(**cast("dict[str, Any]", given))
    except UnicodeDecodeError:
        raise SettingsError(f"{env_file} is not UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{env_file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_input=False, include_url=False, include_context=False):
            name = str(problem["loc"][0]) if problem["loc"] else ""
            variable = variable_of(name) if name in Settings.model_fields else name
            problems.append(f"{variable}: {problem['msg']}")
        raise SettingsError("; ".join(problems)) from None
