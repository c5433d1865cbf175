"""``FailuresInARow``: tells a photo that cannot be segmented from a machine, volume or server that is failing."""

import threading
from typing import Final

from osamd.errors import (
    BodyTimeoutError,
    DeadlineExceededError,
    HungError,
    InferenceError,
    OsamdError,
    OutOfMemoryError,
    RequestError,
    StorageError,
    UnreachableError,
)

# As many photos failing in a row are no accident.
MOST: Final = 10
# Whether such a failure is the photo's does not show in a single one.
UNCLEAR: Final = (
    BodyTimeoutError,
    DeadlineExceededError,
    HungError,
    InferenceError,
    OutOfMemoryError,
    StorageError,
)


def is_unclear(error: OsamdError) -> bool:
    """Whether an error of one photo may be that of a machine, a volume or a server, and may pass.

    So may a code that this version does not know, such as a server's ``internal_error``.
    """
    return isinstance(error, UNCLEAR) or type(error) is OsamdError


class FailuresInARow:
    """Counts photos that failed for an unclear reason, with none between them that was segmented. Thread-safe."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def end(self) -> None:
        """A photo was segmented."""
        with self._lock:
            self._count = 0

    def add(self, error: OsamdError) -> None:
        """A photo failed for an unclear reason.

        Raises:
            OsamdError: too many did, so the run should stop. It can be continued.
        """
        with self._lock:
            self._count += 1
            count = self._count
        if count >= MOST:
            # A request error would say that the command is wrong.
            kind = UnreachableError if isinstance(error, RequestError) else type(error)
            raise kind(f"{count} photos in a row failed, the last with: {error}") from error
