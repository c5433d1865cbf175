"""Optimised graphs kept on the disk, so that ONNX Runtime need not optimise them again at each start.

Optimised for a processor and by a version, so a name is made of both and of the file it came from.
"""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osamd.files import stamp_of, temporary_folder

# A copy of a larger file would cost more room than the start is worth.
LARGEST_BYTES: Final = 512 * 1024 * 1024
CPU_INFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class GraphCache:
    """A folder of optimised graphs.

    Attributes:
        folder: made when first written to. One that cannot be written costs nothing but the time saved.
        version: of ONNX Runtime.
    """

    folder: Path
    version: str

    def place(self, graph: Path, *, provider: str) -> Path | None:
        """Where the optimised graph of this file is kept, or would be; None where it is not kept.

        Args:
            graph: an ONNX file with its weights inside.
            provider: the ONNX Runtime provider that it is optimised for.
        """
        stamp = stamp_of(graph)
        if stamp is None or stamp[0] > LARGEST_BYTES:
            return None
        key = _hash(f"{stamp[0]} {stamp[1]} {self.version} {provider} {_processor()}")
        return self.folder / f"{_source(graph)}-{key}.onnx"

    @contextlib.contextmanager
    def making(self, place: Path) -> Iterator[Path | None]:
        """Make an optimised graph: the block writes to the path it is given, which is then put in its place.

        What was kept of the same file before goes. The path is None where nothing can be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                temporary = stack.enter_context(temporary_folder(self.folder))
            except OSError:
                yield None
                return
            written = temporary / place.name
            yield written
            self._drop(place.name.partition("-")[0])
            with contextlib.suppress(OSError):
                written.replace(place)

    def forget(self, graph: Path) -> None:
        """Delete what is kept of a file."""
        self._drop(_source(graph))

    def _drop(self, source: str) -> None:
        for old in self.folder.glob(f"{source}-*.onnx"):
            with contextlib.suppress(OSError):
                old.unlink()


def graph_folder(cache: Path) -> Path:
    """Where optimised graphs are kept below OSAMD_CACHE."""
    return cache / "osamd" / "graphs"


def forget_graphs(cache: Path, paths: Iterable[Path]) -> None:
    """Delete what is kept of these models' files, made by whichever version of ONNX Runtime."""
    graphs = GraphCache(graph_folder(cache), version="")
    for path in paths:
        graphs.forget(path)


def _source(graph: Path) -> str:
    return _hash(str(graph.resolve()))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    """What the machine's instructions are: layouts are chosen by them."""
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text("utf-8", "replace").splitlines():
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {line}"
    return f"{platform.machine()} {os.cpu_count()}"
