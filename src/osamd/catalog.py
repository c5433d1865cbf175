"""The models there are: names, aliases, families, blobs and licences, read from TOML rows."""

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

from osamd.errors import UnknownModelError

DEFAULT_TAG = "latest"
DEFAULT_MODEL = "builtin:latest"
LONGEST_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that must lie beside a blob, under its own name."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of a model.

    Attributes:
        url: where it comes from; ``package:NAME`` is a file inside the wheel.
        sha256: digest of its content, hexadecimal.
        attachments: files that belong beside it.
    """

    url: str
    sha256: str
    attachments: tuple[Attachment, ...] = ()


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
    """

    name: str
    family: str
    blobs: Mapping[str, Blob]
    license: str = ""
    license_url: str = ""
    source_url: str = ""
    aliases: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Identifies the model's content: a hash over the digests of its blobs and what is attached to them."""
        parts = [
            "=".join([role, blob.sha256, *(attachment.sha256 for attachment in blob.attachments)])
            for role, blob in sorted(self.blobs.items())
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Catalog:
    """Models by name. A name without a tag means ``NAME:latest``; aliases are exact."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}
        self._aliases = {alias: model for model in self._models.values() for alias in model.aliases}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def resolve(self, name: str) -> Model:
        """The model of a name or alias.

        Raises:
            UnknownModelError: no such row.
        """
        full = name if ":" in name else f"{name}:{DEFAULT_TAG}"
        model = self._aliases.get(name) or self._models.get(full)
        if model is None:
            shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
            known = ", ".join(sorted(self._models))
            raise UnknownModelError(f"there is no model {shown!r}; there are: {known}", field="model")
        return model


def load_catalog() -> Catalog:
    """The catalogue that ships with osamd."""
    text = resources.files("osamd").joinpath("catalog.toml").read_text("utf-8")
    return Catalog(_model(row) for row in tomllib.loads(text)["model"])


def _model(row: Mapping[str, Any]) -> Model:
    blobs = {
        role: Blob(
            url=blob["url"],
            sha256=blob["sha256"],
            attachments=tuple(Attachment(**attachment) for attachment in blob.get("attachments", ())),
        )
        for role, blob in row["blobs"].items()
    }
    return Model(
        name=row["name"],
        family=row["family"],
        blobs=blobs,
        license=row.get("license", ""),
        license_url=row.get("license_url", ""),
        source_url=row.get("source_url", ""),
        aliases=tuple(row.get("aliases", ())),
    )
