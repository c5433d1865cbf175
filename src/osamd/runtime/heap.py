"""Tuning of glibc's heap: one for all threads, trimmed when idle. No effect with other C libraries."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Final

# Of mallopt(3).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8

# glibc's maximum. Smaller blocks come from the heap, whose pages are reused; a mapping faults in new pages each time.
SMALLEST_MAPPING: Final = 32 * 1024 * 1024
# Enough that the pixels of successive photos of a few megapixels reuse the same pages.
KEPT_FREE: Final = 128 * 1024 * 1024


def share() -> None:
    """Let all threads allocate from one heap; call it before starting threads.

    By default, glibc gives threads their own heaps. Long-lived objects, such as masks kept for refinement, are then in
    the heap of the thread that made them, and free pages of one heap cannot be used by others.
    """
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(M_ARENA_MAX, 1)
        set_option(M_MMAP_THRESHOLD, SMALLEST_MAPPING)
        set_option(M_TRIM_THRESHOLD, KEPT_FREE)


def trim() -> None:
    """Return free pages to the system."""
    trim_all = _function("malloc_trim")
    if trim_all is not None:
        trim_all(0)


def _function(name: str) -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
