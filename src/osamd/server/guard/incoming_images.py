"""``IncomingImages``: images that were admitted and have not joined the queue yet."""

import functools
from collections.abc import Callable


class IncomingImages:
    """Counts admitted images until they join the queue, or turn out not to need a place there.

    Those for which there will probably be no place can be refused before they are received this way. Belongs to one
    event loop.
    """

    def __init__(self) -> None:
        self._open: set[object] = set()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._open)

    def begin(self) -> Callable[[], None]:
        """Count one more; returns what ends that, which may be called again."""
        image = object()
        self._open.add(image)
        return functools.partial(self._open.discard, image)
