"""What makes a process come up sooner."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# FastAPI asks of every parameter and reply whether it is a model of pydantic's first version; here none is. Where that
# cannot be imported it takes that for a no, which saves 15 ms of importing it.
NEEDLESS: Final = "pydantic.v1"


@contextmanager
def faster_imports() -> Iterator[None]:
    """A block of imports without what takes time and gives nothing: a fifth of the way to the first answer.

    The garbage collector, which would look again and again at what is there to stay, rests, and leaves what was
    imported out of later collections too; ``NEEDLESS`` cannot be imported before the end.
    """
    is_hidden = NEEDLESS not in sys.modules
    gc.disable()
    if is_hidden:
        sys.modules[NEEDLESS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_hidden:
            del sys.modules[NEEDLESS]
        gc.freeze()
        gc.enable()
