"""``Shelf``: which models' files are on a server, and nothing else of the store."""

from datetime import datetime
from typing import Protocol

from osamd.library.catalog import Model


class Shelf(Protocol):
    """What ``Store`` knows of models' files. It may access the disk."""

    def is_present(self, model: Model) -> bool:
        """Whether every file of the model is there."""

    def size(self, model: Model) -> int | None:
        """Total bytes of the model's files; None if one is missing."""

    def modified(self, model: Model) -> datetime | None:
        """When the newest file of the model was written; None if one is missing."""
