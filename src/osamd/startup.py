"""What makes a process come up sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """A block of imports without the garbage collector, which would look again and again at what is there to stay.

    It takes a fifth off the way to the first answer. What was imported is left out of later collections too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
