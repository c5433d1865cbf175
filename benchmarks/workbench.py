"""Shared by scenarios: model files, a folder for the run, and servers that are started on first use."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

from benchmarks.bare import BareModel
from benchmarks.servers import EFFICIENTSAM, Server, blob_paths, run_osam, run_osamd

Value = TypeVar("Value")
SETTLE_S = 0.05


class Workbench:
    """One run. Use as a context manager: at its end every process is stopped.

    Args:
        blobs: the folder with the models.
        folder: an empty one, for caches and logs.
        is_quick: whether to take few samples.
    """

    def __init__(self, blobs: Path, folder: Path, *, is_quick: bool) -> None:
        self.paths = blob_paths(blobs)
        self.folder = folder
        self.is_quick = is_quick
        self.threads = os.cpu_count() or 1
        self._stack = contextlib.ExitStack()
        self._osamd: Server | None = None
        self._osam: Server | None = None
        self._bare: dict[tuple[str, int], BareModel] = {}

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        self._stack.close()

    def rounds(self, *, quick: int, full: int) -> int:
        """How often to repeat."""
        return quick if self.is_quick else full

    @property
    def osamd(self) -> Server:
        """A server that stays for the run; each scenario sends photos of its own."""
        if self._osamd is None:
            self._osamd = self._stack.enter_context(run_osamd(self.folder / "osamd", self.paths))
        return self._osamd

    @property
    def osam(self) -> Server:
        """The peer, for the run."""
        if self._osam is None:
            self._osam = self._stack.enter_context(run_osam(self.folder / "osam", self.paths))
        return self._osam

    def bare(self, model: str = EFFICIENTSAM, threads: int | None = None) -> BareModel:
        """The bare sessions, in this process."""
        key = (model, threads or self.threads)
        if key not in self._bare:
            self._bare[key] = BareModel(model, self.paths[model], self.folder, threads=key[1])
        return self._bare[key]


def settle() -> None:
    """Wait until the threads of the side that was measured last have stopped spinning, which ONNX Runtime's do."""
    time.sleep(SETTLE_S)


def turned(items: Sequence[Value], by: int) -> list[Value]:
    """The items from another one on, so that over the rounds each has every place in the order."""
    start = by % len(items)
    return [*items[start:], *items[:start]]
