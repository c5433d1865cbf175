"""Makes a process start faster."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def faster_imports() -> Iterator[None]:
    """Import without the garbage collector, which would scan permanent objects again and again, and without plugins.

    Imported objects are excluded from later collections too. Plugins of pydantic, which any installed package may
    bring, would see the body of every request; looking through all packages for them takes 10 to 40 ms. NumPy's and
    OpenCV's linear algebra is hardly used: its threads, one for each further core, would spin for 0.1 s each when NumPy
    is imported, while models are loaded.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
