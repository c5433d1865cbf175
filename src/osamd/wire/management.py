"""Models on the wire, in Ollama's format."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictStr, model_validator

from osamd.events import PullProgress
from osamd.keep_alive import PINNED
from osamd.library.catalog import Model
from osamd.library.rows import FILE_SCHEME, shown_url
from osamd.library.shelf import Shelf
from osamd.status import Resident
from osamd.types import Capabilities
from osamd.wire.fields import ReplyModel, WireModel, fold

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)


def _not_blank(name: str) -> str:
    if not name.strip():
        raise ValueError("expected a model's name")
    return name


class ModelBody(WireModel):
    """Names a model. Other fields that Ollama's clients send, such as ``verbose`` or ``insecure``, are ignored."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, defer_build=True)

    model: Annotated[StrictStr, AfterValidator(_not_blank)] = Field(
        description="A name or alias from the catalogue. Also accepted as `name`, for older Ollama clients."
    )

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        return fold(values, {"name": "model"})


class PullBody(ModelBody):
    """Body of ``POST /api/pull``."""

    stream: StrictBool = Field(default=True, description="One JSON line per update, or one answer at the end.")


class DetailsSchema(ReplyModel):
    """What kind of model it is."""

    format: str = "onnx"
    family: str
    license: str
    license_url: str
    source_url: str


class TagSchema(ReplyModel):
    """A model that is here."""

    name: str
    model: str
    modified_at: str | None
    size: int
    digest: str
    details: DetailsSchema
    capabilities: list[str] = Field(description="What a prompt may contain and what is returned.")


class TagsReply(ReplyModel):
    """Answer of ``GET /api/tags``."""

    models: list[TagSchema]


class RunningSchema(TagSchema):
    """A model that is loaded."""

    device: str
    expires_at: str | None = Field(description="When it is unloaded if unused; null: when its memory is needed.")
    size_vram: int = Field(description="File size in bytes if it is in GPU memory, else 0.")


class RunningReply(ReplyModel):
    """Answer of ``GET /api/ps``."""

    models: list[RunningSchema]


class BlobSchema(ReplyModel):
    """A file of a model."""

    role: str
    digest: str
    url: str | None = Field(
        description="Where it is downloaded from, without passwords and queries. Null for non-admins if"
        " the file is local to the server."
    )


class ShowReply(ReplyModel):
    """Answer of ``POST /api/show``."""

    name: str
    license: str
    license_url: str
    details: DetailsSchema
    capabilities: list[str]
    takes: str = Field(description="The capabilities in words.")
    aliases: list[str]
    digest: str
    is_present: bool = Field(description="Whether its files are on this server.")
    is_loaded: bool
    may_pull: bool = Field(description="Whether this caller may trigger a pull.")
    size: int | None = Field(description="Bytes on disk; null where it is not downloaded.")
    download_size: int | None = Field(description="Bytes to download, where the catalogue gives the size of each file.")
    modified_at: str | None
    blobs: list[BlobSchema]


class CatalogReply(ReplyModel):
    """Answer of ``GET /api/catalog``."""

    models: list[ShowReply]


class VersionReply(ReplyModel):
    """Answer of ``GET /api/version``."""

    version: str


class PullLine(ReplyModel):
    """A line of ``POST /api/pull``: a status, or a final error."""

    status: str | None = None
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
    error: str | None = None
    code: str | None = None


def details(model: Model) -> DetailsSchema:
    """What kind of model it is."""
    return DetailsSchema(
        family=model.family, license=model.license, license_url=model.license_url, source_url=model.source_url
    )


def capability_names(capabilities: Capabilities) -> list[str]:
    """The capabilities as machine-readable words."""
    named = {
        "points": capabilities.points,
        "box": capabilities.boxes == 1,
        "boxes": capabilities.boxes > 1,
        "texts": capabilities.texts > 0,
        "mask_input": capabilities.mask_input,
        "multimask": capabilities.multimask,
        "masks": capabilities.masks,
    }
    return [name for name, is_there in named.items() if is_there]


def tag(model: Model, shelf: Shelf) -> TagSchema:
    """A model that is here."""
    return TagSchema(**_common(model, shelf))


def running(resident: Resident, shelf: Shelf) -> RunningSchema:
    """A model that is loaded."""
    expires_in_s = resident.expires_in_s
    expires_at = None
    if expires_in_s is not None:
        until = FOREVER if expires_in_s == PINNED else datetime.now(UTC) + timedelta(seconds=expires_in_s)
        expires_at = _timestamp(until)
    return RunningSchema(
        **_common(resident.model, shelf),
        device=resident.device,
        expires_at=expires_at,
        size_vram=0 if resident.device == "cpu" else resident.nbytes,
    )


def show(model: Model, shelf: Shelf, *, is_loaded: bool, may_pull: bool, is_admin: bool) -> ShowReply:
    """All public information about a model from the catalogue and the shelf, without secrets.

    Args:
        model: the row.
        shelf: where its files are.
        is_loaded: whether it is in memory.
        may_pull: whether the caller may trigger a pull.
        is_admin: whether the caller may see server paths.
    """
    capabilities = model.capabilities
    modified = shelf.modified(model)
    return ShowReply(
        name=model.name,
        license=model.license,
        license_url=model.license_url,
        details=details(model),
        capabilities=capability_names(capabilities),
        takes=capabilities.sentence(),
        aliases=list(model.aliases),
        digest=model.digest,
        is_present=shelf.is_present(model),
        is_loaded=is_loaded,
        may_pull=may_pull,
        size=shelf.size(model),
        download_size=model.download_nbytes,
        modified_at=None if modified is None else _timestamp(modified),
        blobs=[
            BlobSchema(
                role=role,
                digest=f"sha256:{blob.sha256}",
                url=None if blob.url.startswith(FILE_SCHEME) and not is_admin else shown_url(blob.url),
            )
            for role, blob in model.blobs.items()
        ],
    )


def pull_line(progress: PullProgress) -> PullLine:
    """Progress of a pull, in Ollama's words."""
    digest = f"sha256:{progress.digest}"
    status = "verifying sha256 digest" if progress.status == "verifying" else f"pulling {progress.digest[:12]}"
    return PullLine(status=status, digest=digest, total=progress.total, completed=progress.completed)


def _common(model: Model, shelf: Shelf) -> dict[str, Any]:
    modified = shelf.modified(model)
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": None if modified is None else _timestamp(modified),
        "size": shelf.size(model) or 0,
        "digest": model.digest,
        "details": details(model),
        "capabilities": capability_names(model.capabilities),
    }


def _timestamp(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
