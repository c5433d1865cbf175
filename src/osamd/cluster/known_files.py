"""``KnownFiles``: which models' files a cluster's Segmenters have, as they said."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from osamd.cluster.outcomes import Files
from osamd.library.catalog import Model


class KnownFiles:
    """A ``Shelf`` of what several Segmenters have; a model is there if one of them has it.

    Args:
        files: by model, of each Segmenter.
    """

    def __init__(self, files: Iterable[Mapping[str, Files]]) -> None:
        self._files: dict[str, Files] = {}
        for some in files:
            self._files.update(some)

    def is_present(self, model: Model) -> bool:
        """See ``Shelf.is_present``."""
        return self._of(model) is not None

    def size(self, model: Model) -> int | None:
        """See ``Shelf.size``."""
        sizes = [files.nbytes for files in self._of(model) or ()]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    def modified(self, model: Model) -> datetime | None:
        """See ``Shelf.modified``."""
        return max((files.modified for files in self._of(model) or () if files.modified is not None), default=None)

    def _of(self, model: Model) -> list[Files] | None:
        found = [self._files.get(member.name) for member in model.members]
        known = [files for files in found if files is not None]
        return known if len(known) == len(found) else None
