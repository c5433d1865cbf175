"""A progress bar on stderr: rate, time left, failures. Silent if stderr is not a terminal."""

from types import TracebackType
from typing import Any, Self


class Progress:
    """The photos that are done.

    Args:
        total: photos of this run.
    """

    def __init__(self, total: int) -> None:
        # Imported for a run only: it takes a tenth of a second.
        from tqdm import tqdm

        self._failed = 0
        # None disables it where stderr is not a terminal.
        self._bar: Any = tqdm(total=total, unit=" photos", disable=None, dynamic_ncols=True, smoothing=0.1)

    def add(self, count: int = 1, *, failed: int) -> None:
        """Count photos that have been done now."""
        self._bar.update(count)
        self._count_failed(failed)

    def skip(self, count: int, *, failed: int) -> None:
        """Count photos that an earlier run has done; they do not count for the rate."""
        if count and not self._bar.disable:
            self._bar.initial += count
            self._bar.n += count
            self._bar.refresh()
        self._count_failed(failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def _count_failed(self, failed: int) -> None:
        if failed:
            self._failed += failed
            self._bar.set_postfix_str(f"{self._failed} failed")
