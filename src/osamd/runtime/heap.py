"""The C library's heap: one for all threads, and given back at rest. Elsewhere than on glibc nothing happens."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any, Final

# Of mallopt(3).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8

# The most glibc takes. Smaller blocks come from the heap, whose pages stay; those of a mapping are made anew each time.
SMALLEST_MAPPING: Final = 32 * 1024 * 1024
# Photos of some megapixels come and go without the pages of their pixels being given back in between.
KEPT_FREE: Final = 128 * 1024 * 1024


def share() -> None:
    """Have all threads allocate from one heap; to be called before there are other threads.

    By itself glibc gives threads heaps of their own. What lives long, such as masks kept for refinement, then lies in
    the heap of whichever thread made it, and pages that one heap has free are of no use to the others.
    """
    set_option = _function("mallopt")
    if set_option is not None:
        set_option(M_ARENA_MAX, 1)
        set_option(M_MMAP_THRESHOLD, SMALLEST_MAPPING)
        set_option(M_TRIM_THRESHOLD, KEPT_FREE)


def trim() -> None:
    """Give free pages back to the system."""
    trim_all = _function("malloc_trim")
    if trim_all is not None:
        trim_all(0)


def _function(name: str) -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
