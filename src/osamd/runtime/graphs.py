"""A disk cache of optimised graphs, so that ONNX Runtime need not optimise them at each start.

They depend on the processor and the version, so file names are built from both, and from the original file's place and
content.
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

# For larger files, the disk space outweighs the time saved.
LARGEST_BYTES: Final = 512 * 1024 * 1024
# Of a pulled file's name, or its folder's, before the digest of its content.
BLOB_PREFIX: Final = "sha256-"
CPU_INFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class GraphCache:
    """A folder of optimised graphs.

    Attributes:
        folder: created when first written to. If it cannot be written, graphs are optimised at each start.
        version: of ONNX Runtime.
    """

    folder: Path
    version: str

    def place(self, graph: Path, *, provider: str) -> Path | None:
        """The path of this file's optimised graph, whether it exists or not; None if it is not cached.

        Args:
            graph: an ONNX file with its weights inside.
            provider: the ONNX Runtime provider that it is optimised for.
        """
        stamp = stamp_of(graph)
        if stamp is None or stamp[0] > LARGEST_BYTES:
            return None
        try:
            content = _content(graph)
        except OSError:
            return None
        key = _hash(f"{stamp[0]} {stamp[1]} {content} {self.version} {provider} {_processor()}")
        return self.folder / f"{_source(graph)}-{key}.onnx"

    @contextlib.contextmanager
    def making(self, place: Path) -> Iterator[Path | None]:
        """Cache an optimised graph: the block writes it to the given path, which is then moved into place.

        Older graphs of the same file are deleted. The path is None if nothing can be written.
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
        """Delete the optimised graphs of a file."""
        self._drop(_source(graph))

    def _drop(self, source: str) -> None:
        for old in self.folder.glob(f"{source}-*.onnx"):
            with contextlib.suppress(OSError):
                old.unlink()


def graph_folder(cache: Path) -> Path:
    """The folder of optimised graphs below OSAMD_CACHE."""
    return cache / "osamd" / "graphs"


def forget_graphs(cache: Path, paths: Iterable[Path]) -> None:
    """Delete the optimised graphs of these models' files, for all versions of ONNX Runtime."""
    graphs = GraphCache(graph_folder(cache), version="")
    for path in paths:
        graphs.forget(path)


def _content(graph: Path) -> str:
    """A hash of the file, unless its path has one.

    Other weights often have the same size, and container images give every file the same time.
    """
    if any(part.startswith(BLOB_PREFIX) for part in graph.parts):
        return ""
    with graph.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(graph: Path) -> str:
    return _hash(str(graph.resolve()))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _processor() -> str:
    """The machine's instruction set, which determines memory layouts."""
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text("utf-8", "replace").splitlines():
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {line}"
    return f"{platform.machine()} {os.cpu_count()}"
