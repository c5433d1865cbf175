"""One Settings object. Flags override the environment, which overrides a .env file, which overrides the defaults.

Variables are ``OSAMD_<FIELD>``, except those that hosts and the seed document fix (``API_KEY``, ``APP_ENV``, ``PORT``),
``API_KEY_FILE``, and osam's ``OSAM_ONNX_PROVIDERS`` and ``OSAM_BLOB_ENDPOINT``.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from osamd.errors import SettingsError
from osamd.files import at_home, encoding_of
from osamd.setting_types import (
    CommaList,
    Duration,
    HomePath,
    Host,
    MirrorList,
    Network,
    Origin,
    Secret,
    WebAddress,
    lower_case,
)

MaskLayout = Literal["full", "crop"]
Include = Literal["image_embedding", "image_embedding_compact"]
Device = Literal["auto", "cpu", "cuda"]
LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
# Other tools' protocols; each is a module of osamd.server.doors.
DoorName = Literal["cvat", "label-studio", "roboflow", "qupath", "x-anylabeling"]

MEBIBYTE = 1024 * 1024
# Expiry times must fit into a date.
MOST_TTL_S = 1e9
# Thirty years; the timers of threads and sockets overflow at nine times as many.
MOST_S = 1e9
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
        allow_inf_nan=False,
    )

    api_key: Secret = Field(
        default=None,
        validation_alias=AliasChoices("api_key", "API_KEY"),
        description="The secret of the admin key named API_KEY; at least 16 characters outside development. With"
        " neither this nor API_KEY_FILE, a production server answers 500.",
    )
    api_key_file: HomePath | None = Field(
        default=None,
        validation_alias=AliasChoices("api_key_file", "API_KEY_FILE"),
        description="File with more keys, one `name role secret` or `name role sha256:HEX` per line, roles `admin` and"
        " `user`; reloaded within a second of a change. `osamd keys new` generates lines for it.",
    )
    wrong_keys_per_minute: int = Field(
        default=20,
        ge=1,
        description="Wrong keys per minute from one address; beyond this it gets 429, and keys that have not been valid"
        " from that address before are checked with a 2 s delay. Valid keys still work.",
    )
    cors_origins: CommaList[Origin] = Field(
        default=(),
        description="Allowed CORS origins, separated by commas: web pages (`https://example.com`), extensions"
        " (`chrome-extension://ID`, `moz-extension://*`) and desktop apps (`app://obsidian.md`, `tauri://localhost`,"
        " `vscode-webview://*`).",
    )
    trusted_proxies: CommaList[Network] = Field(
        default=(),
        description="Addresses and networks of proxies whose X-Forwarded-For is trusted, separated by commas.",
    )
    app_env: Annotated[Literal["production", "development"], BeforeValidator(lower_case)] = Field(
        default="production",
        validation_alias=AliasChoices("app_env", "APP_ENV"),
        description="In `development`, without a key configured, requests need none; the server logs a warning.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; `localhost` and `::` mean both IPv4 and IPv6. Loopback only by default.",
    )
    port: int = Field(
        default=11368,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("port", "PORT"),
        description="Port to listen on; 0 picks a free one.",
    )
    cache: HomePath = Field(
        default=Path("~/.cache/osam"),
        validate_default=True,
        description="Folder of the model blobs, in osam's layout; osamd's own files go into its subfolder `osamd`.",
    )
    catalog: HomePath | None = Field(
        default=None,
        description="File with your own models, in the format of osamd's catalog.toml."
        " Unset: ~/.config/osamd/models.toml, if it exists.",
    )
    blob_endpoint: MirrorList = Field(
        default=(),
        validation_alias=AliasChoices("blob_endpoint", "OSAM_BLOB_ENDPOINT"),
        description="Blob mirrors, separated by commas, tried in order, as in osam: each serves a blob under"
        " its bare SHA-256. The word `direct` stands for the blob's own URL, which is only tried if listed.",
    )
    pull: Literal["auto", "never"] = Field(
        default="auto",
        description="`auto` pulls a model when it is first used over HTTP; with `never`, only `osamd pull` does.",
    )
    models: CommaList[str] = Field(
        default=(),
        description="Models that requests may pull, separated by commas. Unset: the whole catalogue.",
    )
    pull_wait_s: float = Field(
        default=60.0, gt=0, le=MOST_S, description="Seconds a request waits for a pull in progress before it gets 503."
    )
    model_memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Limit on the file sizes of loaded models together, in bytes; beyond it the least recently used one"
        " is unloaded. Unset: half of the memory of the container or machine.",
    )
    keep_alive: Duration = Field(
        default=None,
        description="How long a model stays loaded after a request: `5m`, a number of seconds, `0` to unload"
        " immediately, `-1` forever. Unset: until its memory is needed. Keys with the role `user` cannot exceed it.",
    )
    preload: CommaList[str] = Field(
        default=("builtin",),
        description="Models loaded at startup, separated by commas; /ready waits for them. `none` loads nothing.",
    )
    device: Device = Field(
        default="auto",
        description="Where models run: `auto` uses CUDA if available. With `cuda` the server is not ready until"
        " a model has run on the GPU, and never falls back to the CPU.",
    )
    onnx_providers: CommaList[str] = Field(
        default=(),
        validation_alias=AliasChoices("onnx_providers", "OSAM_ONNX_PROVIDERS"),
        description="ONNX Runtime providers by name, separated by commas, as in osam; overrides OSAMD_DEVICE.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Threads per inference; 0 means one per core available to the process or its container.",
    )
    encode_queue: int = Field(default=16, ge=1, description="Images that may wait to be encoded.")
    decode_queue: int = Field(default=256, ge=1, description="Requests that may wait for their prompts to be decoded.")
    queue_wait_s: float = Field(
        default=60.0,
        gt=0,
        le=MOST_S,
        description="Seconds a request may wait in either queue, or for memory, before it gets 503.",
    )
    deadline_s: float = Field(
        default=120.0,
        gt=0,
        le=MOST_S,
        description="Seconds a request may take, including its body, before it gets 504.",
    )
    requests_per_minute: int = Field(default=6000, ge=1, description="Requests per minute per key.")
    encodes_per_minute: int = Field(
        default=3000,
        ge=1,
        description="Images encoded per minute per key. Cached ones do not count, nor windows around small objects, at "
        "which the built-in model looks again.",
    )
    concurrent_requests: int = Field(default=32, ge=1, description="Concurrent requests per key; more get 429.")
    uploads: int = Field(
        default=32,
        ge=1,
        description="Concurrent requests with bodies above 8 KiB, that is, with images; more get 503 before their"
        " body is read. A single key can use at most three quarters.",
    )
    upload_bytes: int = Field(
        default=256 * MEBIBYTE,
        ge=1024,
        description="Total declared size of those bodies, in bytes, shared in the same way; a body without a declared"
        " length counts as OSAMD_MAX_BODY_BYTES.",
    )
    mask_memory_bytes: int = Field(
        default=1024 * MEBIBYTE,
        ge=4 * MEBIBYTE,
        description="Memory for the masks and replies of all requests, from decoding until the last byte is sent, in"
        " bytes; requests wait for it, and get 503 if none becomes free. A single key can use at most three quarters.",
    )
    max_connections: int = Field(
        default=512, ge=1, description="Open connections; at the limit, idle ones are closed, or new ones get 503."
    )
    keyless_connections: int = Field(
        default=128,
        ge=1,
        description="Open connections per address (per /64 for IPv6) on which no valid key was sent; more are closed."
        " OSAMD_TRUSTED_PROXIES are exempt.",
    )
    idle_s: float = Field(
        default=130.0,
        gt=0,
        le=MOST_S,
        description="Seconds a connection may be idle between requests. Must exceed the proxy's idle timeout, since a"
        " request sent on a connection that is just being closed fails: nginx and AWS load balancers use 60 s, Traefik"
        " and Azure Front Door 90, Caddy 120. Behind Google's load balancers set 620, behind Cloudflare 910.",
    )
    head_s: float = Field(
        default=10.0,
        gt=0,
        le=MOST_S,
        description="Seconds for the head of a request to arrive, counted from the connection.",
    )
    receive_s: float = Field(default=60.0, gt=0, le=MOST_S, description="Seconds for a body to arrive, else 408.")
    receive_idle_s: float = Field(default=10.0, gt=0, le=MOST_S, description="Seconds a body may pause, else 408.")
    send_idle_s: float = Field(
        default=30.0,
        gt=0,
        le=MOST_S,
        description="Seconds without the client reading any of its answer before it is cut off.",
    )
    hang_s: float = Field(
        default=150.0,
        gt=0,
        le=MOST_S,
        description="Seconds after which a running computation counts as hung: its request fails and its worker is"
        " replaced.",
    )
    grace_s: float = Field(
        default=25.0,
        gt=0,
        le=MOST_S,
        description="Seconds for running requests to finish on shutdown. Most hosts kill after 30, Docker after 10.",
    )
    embedding_cache_bytes: int = Field(
        default=512 * MEBIBYTE, ge=0, description="Memory for the embeddings of recent images, in bytes."
    )
    embedding_ttl_s: float = Field(
        default=3600.0,
        gt=0,
        le=MOST_TTL_S,
        description="Seconds an unused embedding, and with it its image_id, is kept in memory.",
    )
    embedding_disk_bytes: int = Field(
        default=0,
        ge=0,
        description="Disk space for embeddings, below OSAMD_CACHE, in bytes: handles of models that return masks"
        " survive a restart or scale to zero. Those of the built-in model contain a reduced picture of the photo. 0"
        " stores none and leaves those that are stored.",
    )
    embedding_disk_ttl_s: float = Field(
        default=7 * 86400.0, gt=0, le=MOST_TTL_S, description="Seconds an unused embedding is kept on disk."
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
        le=MOST_S / 100,
        description="CPU seconds for decoding one image; beyond that its process is killed and the request gets 422.",
    )
    max_mask_pixels: int = Field(
        default=400_000_000,
        ge=1,
        description="Total area of the bounding boxes of one request's masks, in pixels; one byte of memory each. Masks"
        " written at image size (`mask_layout` full, as PNG or RLE) may have four times as many.",
    )
    max_prompts: int = Field(default=64, ge=1, le=1024, description="Prompts in one request.")
    max_points: int = Field(default=256, ge=1, description="Points in one prompt.")
    max_boxes: int = Field(default=64, ge=1, description="Boxes in one prompt.")
    max_texts: int = Field(default=64, ge=1, description="Texts in one prompt.")
    max_text_chars: int = Field(default=256, ge=1, description="Characters in one text.")
    image_root: HomePath | None = Field(
        default=None,
        description="Folder from which `image_path` may read. Unset: `image_path` is refused, except in development on"
        " loopback, where it is the working directory.",
    )
    url_hosts: CommaList[Host] = Field(
        default=(),
        description="Hosts from which `image_url` may fetch, separated by commas: `example.com`,"
        " `*.example.com`, `example.com:8443`, or `*` for any public host. Unset: nothing is fetched.",
    )
    url_schemes: CommaList[Literal["http", "https"]] = Field(
        default=("https",), description="Allowed schemes of `image_url`, separated by commas."
    )
    url_networks: CommaList[Network] = Field(
        default=(),
        description="Private networks that `image_url` may reach, separated by commas.",
    )
    url_bytes: int = Field(default=16 * MEBIBYTE, ge=1, description="Largest image fetched by URL, in bytes.")
    url_s: float = Field(default=10.0, gt=0, le=MOST_S, description="Seconds for a fetch by URL, including redirects.")
    url_fetches: int = Field(default=4, ge=1, le=64, description="Concurrent fetches by URL; more get 503.")
    mask_layout: MaskLayout = Field(
        default="full",
        description="Default `mask_layout`: `full` covers the image, `crop` the bounding box (as osam >= 0.4).",
    )
    include: CommaList[Include] = Field(
        default=(), description="Default `include`: `image_embedding` for osam clients that expect it in every reply."
    )
    doors: CommaList[DoorName] = Field(
        default=("cvat", "roboflow", "x-anylabeling"),
        description="Other tools' protocols that are served, separated by commas; `none` serves osamd's own API only."
        " Those that answer something without a key are not open by default.",
    )
    cvat_texts: CommaList[str] = Field(
        default=(),
        description="Words that models which take text offer to CVAT as a detector, separated by commas.",
    )
    label_studio_url: WebAddress = Field(
        default=None,
        description="The Label Studio whose images its door may fetch, such as `http://label-studio:8080`; private"
        " addresses are allowed. Images elsewhere are subject to OSAMD_URL_HOSTS.",
    )
    label_studio_token: Secret = Field(
        default=None, description="A Personal Access Token of that Label Studio; sent nowhere else."
    )
    keyless_networks: CommaList[Network] = Field(
        default=("127.0.0.0/8", "::1"),
        description="Networks whose clients need no key at doors whose tools cannot send one, separated by commas."
        " `none` requires a key everywhere.",
    )
    docs: Literal["on", "off"] = Field(
        default="on", description="Whether /docs, /openapi.json and /playground are served."
    )
    log_level: LogLevel = Field(default="info", description="Minimum level that is logged.")
    log_format: LogFormat = Field(
        default="auto",
        description="`json`: one object per line on stdout; `text`: human-readable, on stderr. `auto`: text in"
        " development or in a terminal, else JSON.",
    )

    @property
    def user_catalog(self) -> Path | None:
        """The file with the user's own models: the configured one, or the default one if it exists."""
        usual = at_home(Path(USER_CATALOG))
        return self.catalog or (usual if os.path.exists(usual) else None)  # noqa: PTH110 - Path's own may raise


def variable_of(field: str) -> str:
    """The environment variable of a field, such as ``OSAMD_DEVICE`` or ``API_KEY``."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[1]) if isinstance(alias, AliasChoices) else f"OSAMD_{field.upper()}"


def load_settings(*, env_file: Path | None = None, **flags: object) -> Settings:
    """Read the settings.

    Args:
        env_file: a .env file that the real environment overrides, or None.
        flags: fields set on the command line; None means not given.

    Raises:
        SettingsError: names each invalid variable, never its value; or the file cannot be read.
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
            problems.append(f"{variable}: {problem['msg'].removeprefix('Value error, ')}")
        # Entries of one list may fail for the same reason.
        raise SettingsError("; ".join(dict.fromkeys(problems))) from None
