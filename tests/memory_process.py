"""Loads, uses and unloads a model as ``python memory_process.py CATALOG CACHE MODEL``; writes its RSS in bytes.

A process of its own, since nothing else may have loaded or freed anything.
"""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np

from osamd.engine import Engine
from osamd.image_sources import ImageSource
from osamd.library.catalog import load_catalog
from osamd.library.library import Library
from osamd.library.store import Store
from osamd.runtime import heap
from osamd.segment_requests import SegmentRequest
from osamd.settings import load_settings
from osamd.timings import Timings
from osamd.types import Prompt

SETTLE_S = 5.0


def resident_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096


async def settled(most: float) -> int:
    """The RSS, once it is below ``most``, or when it has had time to."""
    until = time.monotonic() + SETTLE_S
    while (now := resident_bytes()) > most and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return now


async def main(catalog: Path, cache: Path, model: str) -> None:
    """Warm up with the built-in model, then watch the other one come and go three times."""
    settings = load_settings(preload=(), threads=1)
    engine = Engine(settings, library=Library(settings, catalog=load_catalog(catalog), store=Store(cache)))
    photo = (Path(__file__).parents[1] / "examples" / "cat.jpg").read_bytes()
    prompt = Prompt(points=np.array([[225, 150]], np.float32), point_labels=np.array([1]))

    async def ask(name: str, keep_alive: float) -> None:
        request = SegmentRequest(ImageSource.of_bytes(photo), model=name, prompts=(prompt,), keep_alive=keep_alive)
        await engine.segment(request, Timings())

    await ask("builtin", 0.0)
    await ask(model, 0.0)
    before = await settled(0)
    for _ in range(3):
        await ask(model, 60.0)
        loaded = resident_bytes()
        await ask(model, 0.0)
        print(before, loaded, await settled(before + (loaded - before) / 20))
    await engine.close()


if __name__ == "__main__":
    # As `osamd serve` does: threads' own heaps keep free pages at their ends, which cannot be given back.
    heap.share()
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
