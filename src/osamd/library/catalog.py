"""The model catalogue: names, aliases, families, blobs and licences, from osamd's own rows and the user's."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from osamd.errors import InvalidRequestError, UnknownModelError
from osamd.files import stamp_of, text_encoding
from osamd.library.families import CHAIN, capabilities_of, chained, is_detector, is_segmenter
from osamd.library.rows import DEFAULT_TAG, CatalogProblem, Row, local_path, read_rows
from osamd.types import Capabilities

DEFAULT_MODEL = f"builtin:{DEFAULT_TAG}"
SHIPPED = "catalog.toml"
SHOWN_CHARS = 64
# Between the names of a chain's parts; catalogue names cannot contain it.
PLUS = "+"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that must be stored beside a blob under its own name, such as external weights.

    Attributes:
        url: where it comes from.
        sha256: digest of its content, hexadecimal; empty for a ``file://`` URL whose row gives none.
        nbytes: its size, where the catalogue gives it.
    """

    url: str
    sha256: str
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of a model.

    Attributes:
        url: where it comes from; ``package:NAME`` is a file inside the wheel, ``file://`` is used in place.
        sha256: digest of its content, hexadecimal; empty for a ``file://`` URL whose row gives none.
        attachments: files that belong beside it.
        nbytes: its size, where the catalogue gives it.
    """

    url: str
    sha256: str
    attachments: tuple[Attachment, ...] = ()
    nbytes: int | None = None


@dataclass(frozen=True)
class Model:
    """A row of the catalogue.

    Attributes:
        name: full name with its tag, such as ``sam2:tiny``.
        family: which adapter runs it.
        blobs: its files by role, such as ``encoder``.
        license: SPDX expression, or the licence's own name.
        license_url: the licence's text.
        source_url: where the model comes from.
        aliases: other names for it.
        origin: the user's file that defines it; None for a row that ships with osamd.
        parts: a chain's detector and segmenter, whose files it uses; empty for other models.
    """

    name: str
    family: str
    blobs: Mapping[str, Blob]
    license: str = ""
    license_url: str = ""
    source_url: str = ""
    aliases: tuple[str, ...] = ()
    origin: Path | None = None
    parts: "tuple[Model, ...]" = ()

    @property
    def members(self) -> "tuple[Model, ...]":
        """The models that are loaded to run it: a chain's parts, or the model itself."""
        return self.parts or (self,)

    @property
    def capabilities(self) -> Capabilities:
        """Which prompts it takes and what it returns, known without loading it."""
        families = [model.family for model in self.members]
        return chained(*families) if self.parts else capabilities_of(*families)

    @property
    def digest(self) -> str:
        """Identifies the model's content: a hash over the digests of its files.

        A ``file://`` blob without a digest is identified by the current size, mtime and inode of its file, so the
        model's digest changes when the file does. Hashing the content each time would take seconds. Callers that
        store results of the model must take the digest before loading it.
        """
        return self.fixed_digest or self._digest_now()

    @cached_property
    def fixed_digest(self) -> str:
        """The digest if every file has one; otherwise an empty string."""
        return self._digest_now() if all(file.sha256 for _, file in self._files()) else ""

    @property
    def download_nbytes(self) -> int | None:
        """Bytes of all its files, where the catalogue gives the size of each."""
        sizes = [file.nbytes for _, file in self._files()]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    def _digest_now(self) -> str:
        parts = [f"{role}={file.sha256 or _stamp(file.url)}" for role, file in self._files()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _files(self) -> Iterator[tuple[str, Blob | Attachment]]:
        for role, blob in sorted(self.blobs.items()):
            yield role, blob
            for attachment in blob.attachments:
                yield f"{role}+", attachment


async def read_digest(model: Model) -> str:
    """The model's digest, without touching the disk on the event loop: network volumes can be slow."""
    return model.fixed_digest or await asyncio.to_thread(lambda: model.digest)


class Catalog:
    """Models by name. A name without a tag means ``NAME:latest``; aliases are exact; ``A+B`` is a chain of two models.

    Args:
        models: the rows.
        problems: rows that were skipped, and why.
    """

    def __init__(self, models: Iterable[Model], problems: Sequence[CatalogProblem] = ()) -> None:
        self._models = {model.name: model for model in models}
        self._aliases = {alias: model for model in self._models.values() for alias in model.aliases}
        self.problems = tuple(problems)

    def __iter__(self) -> Iterator[Model]:
        """All models, shipped ones first."""
        return iter(self._models.values())

    def resolve(self, name: str) -> Model:
        """Look up a model by name or alias, or a chain by the names of its parts: ``DETECTOR+SEGMENTER``.

        Raises:
            UnknownModelError: no such model.
            InvalidRequestError: these models cannot be chained.
        """
        if PLUS in name:
            return self._resolve_chain(name)
        full = name if ":" in name else f"{name}:{DEFAULT_TAG}"
        model = self._aliases.get(name) or self._models.get(full)
        if model is None:
            shown = name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}..."
            known = ", ".join(sorted(self._models))
            raise UnknownModelError(f"unknown model {shown!r}; expected one of: {known}", field="model")
        return model

    def _resolve_chain(self, name: str) -> Model:
        names = name.split(PLUS)
        if len(names) != len(ROLES) or not all(names):
            raise InvalidRequestError(
                "expected a model's name, or DETECTOR+SEGMENTER such as yoloworld+builtin", field="model"
            )
        parts = [self.resolve(part) for part in names]
        problem = chain_problem(*parts)
        if problem is not None:
            role, message = problem
            fitting = ", ".join(model.name for model in self._models.values() if not model.parts and _fits(model, role))
            raise InvalidRequestError(f"the {role} {message}; expected one of: {fitting}", field="model")
        return chain(PLUS.join(part.name for part in parts), *parts)


# The parts of a chain, in order.
ROLES = ("detector", "segmenter")


def _fits(model: Model, role: str) -> bool:
    return is_detector(model.family) if role == "detector" else is_segmenter(model.family)


def chain_problem(detector: Model, segmenter: Model) -> tuple[str, str] | None:
    """Why two models cannot be chained: the role at fault, and a message to be read after it."""
    if detector.parts or not is_detector(detector.family):
        return "detector", f"of a chain must turn words into boxes, which {detector.name} does not"
    if segmenter.parts or not is_segmenter(segmenter.family):
        return "segmenter", f"of a chain must turn a box into a mask, which {segmenter.name} does not"
    return None


def chain(name: str, detector: Model, segmenter: Model, *, row: Row | None = None, origin: Path | None = None) -> Model:
    """A model that turns words into masks: the detector finds boxes, and the segmenter the object in each.

    Args:
        name: its full name.
        detector: turns words into boxes.
        segmenter: turns a box into a mask.
        row: the row that defines it, if there is one.
        origin: the user's file that defines it.
    """
    parts = (detector, segmenter)
    licenses = dict.fromkeys(part.license or "unknown" for part in parts)
    return Model(
        name=name,
        family=CHAIN,
        blobs={
            f"{role}.{key}": blob for role, part in zip(ROLES, parts, strict=True) for key, blob in part.blobs.items()
        },
        license=(row.license if row else "") or " AND ".join(licenses),
        license_url=row.license_url if row else "",
        source_url=row.source_url if row else "",
        aliases=tuple(row.aliases) if row else (),
        origin=origin,
        parts=parts,
    )


def load_catalog(user_file: Path | None = None) -> Catalog:
    """Load the shipped catalogue, extended or overridden by the user's rows.

    A user's row with the name of a shipped model replaces it, so that a blob whose URL changed can be pulled without
    upgrading osamd; the shipped aliases keep pointing to it. Only the built-in model cannot be replaced, because
    ``doctor`` checks the installation with it.

    Args:
        user_file: TOML with ``[[model]]`` rows, or None.

    Returns:
        The catalogue. Invalid rows of the user's file are listed in ``problems``; the valid ones are loaded.
    """
    text = resources.files("osamd.library").joinpath(SHIPPED).read_text("utf-8")
    rows, problems = read_rows(text, Path(SHIPPED), is_shipped=True)
    if problems:
        raise RuntimeError(f"osamd's own catalogue is invalid: {'; '.join(map(str, problems))}")
    models = [_model(row) for row in rows.values()]
    return Catalog(models) if user_file is None else _with_user_rows(models, user_file)


def _with_user_rows(shipped: Iterable[Model], file: Path) -> Catalog:
    models = {model.name: model for model in shipped}
    try:
        data = file.read_bytes()
        rows, problems = read_rows(data.decode(text_encoding(data)), file)
    except (OSError, UnicodeDecodeError) as error:
        return Catalog(models.values(), [CatalogProblem(file, None, "", "", f"cannot be read: {error}")])
    owners = {answer: model.name for model in models.values() for answer in _answers(model)}
    # Chains last, since their parts may be rows that come after them.
    for number, row in sorted(rows.items(), key=lambda item: item[1].family == CHAIN):
        replaced = models.get(row.name)
        try:
            model = _made(row, file, models, replaced)
            _check_names(model, replaced, owners)
        except _RowError as error:
            problems.append(CatalogProblem(file, number, row.name, error.field, error.message))
            continue
        models[model.name] = model
        owners |= dict.fromkeys(_answers(model), model.name)
    problems.sort(key=lambda problem: problem.row or 0)
    return Catalog(models.values(), problems)


class _RowError(Exception):
    """A row that contradicts another one: the field at fault, and a message to be read after it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message


def _made(row: Row, file: Path, models: Mapping[str, Model], replaced: Model | None) -> Model:
    """The model of a user's row."""
    aliases = replaced.aliases if replaced else ()
    if row.family != CHAIN:
        return _model(row, origin=file, more_aliases=aliases)
    if replaced is not None:
        raise _RowError("name", "is already used by another model")
    known = Catalog(models.values())
    parts = []
    for role, name in zip(ROLES, (row.detector, row.segmenter), strict=True):
        try:
            parts.append(known.resolve(name or ""))
        except UnknownModelError:
            raise _RowError(role, f"must name a model of the catalogue, which {name} is not") from None
    problem = chain_problem(*parts)
    if problem is not None:
        raise _RowError(*problem)
    return chain(row.name, *parts, row=row, origin=file)


def _answers(model: Model) -> list[str]:
    """All names of the model, its own first."""
    bare, _, tag = model.name.partition(":")
    return [model.name, *([bare] if tag == DEFAULT_TAG else []), *model.aliases]


def _check_names(model: Model, replaced: Model | None, owners: Mapping[str, str]) -> None:
    """Refuse a model one of whose names is taken."""
    if model.name == DEFAULT_MODEL:
        raise _RowError("name", "is reserved: osamd checks itself with this model")
    if replaced is not None and replaced.origin is not None:
        raise _RowError("name", "is already used by an earlier row")
    for answer in _answers(model):
        if owners.get(answer, model.name) != model.name:
            field = "aliases" if answer in model.aliases else "name"
            raise _RowError(field, f"cannot be {answer}, which already names {owners[answer]}")


def _stamp(url: str) -> str:
    """A value that changes when a local file does."""
    path = local_path(url)
    if path is None:
        raise RuntimeError("only a file:// blob may have no digest")
    stamp = stamp_of(path)
    return "missing" if stamp is None else "-".join(map(str, stamp))


def _model(row: Row, *, origin: Path | None = None, more_aliases: Sequence[str] = ()) -> Model:
    blobs = {
        role: Blob(
            url=blob.url,
            sha256=blob.sha256 or "",
            attachments=tuple(Attachment(file.url, file.sha256 or "", file.bytes) for file in blob.attachments),
            nbytes=blob.bytes,
        )
        for role, blob in row.blobs.items()
    }
    return Model(
        name=row.name,
        family=row.family,
        blobs=blobs,
        license=row.license,
        license_url=row.license_url,
        source_url=row.source_url,
        aliases=tuple(dict.fromkeys([*row.aliases, *more_aliases])),
        origin=origin,
    )
