"""The models there are: names, aliases, families, blobs and licences, from osamd's own rows and the user's."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from osamd.errors import UnknownModelError
from osamd.files import stamp_of, text_encoding
from osamd.library.rows import DEFAULT_TAG, CatalogProblem, Row, local_path, read_rows

DEFAULT_MODEL = f"builtin:{DEFAULT_TAG}"
SHIPPED = "catalog.toml"
SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that must lie beside a blob, under its own name.

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
        url: where it comes from; ``package:NAME`` is a file inside the wheel, ``file://`` is used where it lies.
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
        aliases: other names it answers to.
        origin: the user's file its row stands in; None for a row that ships with osamd.
    """

    name: str
    family: str
    blobs: Mapping[str, Blob]
    license: str = ""
    license_url: str = ""
    source_url: str = ""
    aliases: tuple[str, ...] = ()
    origin: Path | None = None

    @property
    def digest(self) -> str:
        """Identifies the model's content: a hash over the digests of its files.

        A ``file://`` blob without a digest counts with the size, the time of change and the inode of its file as they
        are now, so the digest is another one after the file was changed. Hashing the content each time would take
        seconds. Whoever keeps something made with the model takes the digest before loading it.
        """
        return self._fixed_digest or self._digest_now()

    @cached_property
    def _fixed_digest(self) -> str:
        """The digest when every file is pinned by one of its own, or nothing."""
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


class Catalog:
    """Models by name. A name without a tag means ``NAME:latest``; aliases are exact.

    Args:
        models: the rows.
        problems: rows that are left out, and why.
    """

    def __init__(self, models: Iterable[Model], problems: Sequence[CatalogProblem] = ()) -> None:
        self._models = {model.name: model for model in models}
        self._aliases = {alias: model for model in self._models.values() for alias in model.aliases}
        self.problems = tuple(problems)

    def __iter__(self) -> Iterator[Model]:
        """All models, the shipped ones first."""
        return iter(self._models.values())

    def resolve(self, name: str) -> Model:
        """The model of a name or alias.

        Raises:
            UnknownModelError: no such row.
        """
        full = name if ":" in name else f"{name}:{DEFAULT_TAG}"
        model = self._aliases.get(name) or self._models.get(full)
        if model is None:
            shown = name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}..."
            known = ", ".join(sorted(self._models))
            raise UnknownModelError(f"there is no model {shown!r}; expected one of: {known}", field="model")
        return model


def load_catalog(user_file: Path | None = None) -> Catalog:
    """The catalogue that ships with osamd, and the user's rows beside or in place of its rows.

    A user's row with the name of a shipped model replaces it, so that a file that has moved can be found again without
    a new osamd; the shipped aliases go on pointing to it. Only the built-in model cannot be replaced: it is what
    ``doctor`` proves an installation with.

    Args:
        user_file: TOML with ``[[model]]`` rows, or None.

    Returns:
        The catalogue. Whatever is wrong with the user's file is in its ``problems``; the good rows are in.
    """
    text = resources.files("osamd.library").joinpath(SHIPPED).read_text("utf-8")
    rows, problems = read_rows(text, Path(SHIPPED), is_shipped=True)
    if problems:
        raise RuntimeError(f"osamd's own catalogue is broken: {'; '.join(map(str, problems))}")
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
    for number, row in rows.items():
        replaced = models.get(row.name)
        model = _model(row, origin=file, more_aliases=replaced.aliases if replaced else ())
        wrong = _clash(model, replaced, owners)
        if wrong is not None:
            problems.append(CatalogProblem(file, number, row.name, *wrong))
            continue
        models[model.name] = model
        owners |= dict.fromkeys(_answers(model), model.name)
    problems.sort(key=lambda problem: problem.row or 0)
    return Catalog(models.values(), problems)


def _answers(model: Model) -> list[str]:
    """All names that lead to the model, its own first."""
    bare, _, tag = model.name.partition(":")
    return [model.name, *([bare] if tag == DEFAULT_TAG else []), *model.aliases]


def _clash(model: Model, replaced: Model | None, owners: Mapping[str, str]) -> tuple[str, str] | None:
    """The field and the sentence if the model's names cannot be had."""
    if model.name == DEFAULT_MODEL:
        return "name", "must be another one: this is the model osamd tests itself with"
    if replaced is not None and replaced.origin is not None:
        return "name", "is the name of an earlier row"
    for answer in _answers(model):
        if owners.get(answer, model.name) != model.name:
            field = "aliases" if answer in model.aliases else "name"
            return field, f"cannot be {answer}, which already leads to {owners[answer]}"
    return None


def _stamp(url: str) -> str:
    """What changes when a local file does."""
    path = local_path(url)
    if path is None:
        raise RuntimeError("only a file:// blob can be without a digest")
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
