"""Where blob files are: in the cache folder in osam's layout, inside the package, or at a ``file://`` URL.

::

    models/blobs/sha256-HEX        a blob, or a folder for a blob with attachments, each under its own name
    models/blobs/.osamd/HEX/       unfinished pulls: beside the blobs, so that a rename publishes them
    osamd/locks/HEX.lock           held while a blob is pulled or deleted
    osamd/verified/                which files have been verified; see osamd.library.verified
    osamd/graphs/                  optimised graphs; see osamd.runtime.graphs
"""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from osamd.files import Stamp, stamp_of
from osamd.library.catalog import Attachment, Blob, Model
from osamd.library.rows import PACKAGE_SCHEME, filename_of, local_path


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A file of a blob and its path on disk.

    Attributes:
        url: where it comes from.
        sha256: digest of its content, hexadecimal, or empty.
        nbytes: its size, where the catalogue gives it.
        path: where it is, or will be.
        partial: its path while it is being downloaded.
        ready: its path once it is complete and verified, until the rest of its blob is.
    """

    url: str
    sha256: str
    nbytes: int | None
    path: Path
    partial: Path
    ready: Path

    @property
    def is_here(self) -> bool:
        """Whether it is in place. Never raises, even if the folder cannot be read."""
        return os.path.isfile(self.path)  # noqa: PTH113 - Path.is_file raises there

    def stamp(self) -> Stamp | None:
        """A value that changes when the file does; None if there is no file."""
        return stamp_of(self.path)


class Layout:
    """Paths below one cache folder.

    Args:
        cache: the folder osam calls ``~/.cache/osam``.
    """

    def __init__(self, cache: Path) -> None:
        self.blobs = cache / "models" / "blobs"
        self.verified = cache / "osamd" / "verified"
        self._locks = cache / "osamd" / "locks"

    def files(self, blob: Blob) -> list[BlobFile]:
        """The files of a blob, the graph itself first."""
        place = self.place(blob)
        own = place / filename_of(blob.url) if is_ours(blob) and blob.attachments else place
        beside = [(attachment, own.with_name(filename_of(attachment.url))) for attachment in blob.attachments]
        return [self._file(blob, blob, own), *(self._file(blob, attachment, path) for attachment, path in beside)]

    def model_files(self, model: Model) -> list[BlobFile]:
        """The files of all blobs of a model."""
        return [file for blob in model.blobs.values() for file in self.files(blob)]

    def place(self, blob: Blob) -> Path:
        """The path of a blob: a file, or a folder if it has attachments and is stored in the cache."""
        if blob.url.startswith(PACKAGE_SCHEME):
            name = blob.url.removeprefix(PACKAGE_SCHEME)
            return Path(str(resources.files("osamd.models").joinpath("builtin_net", name)))
        return local_path(blob.url) or self.blobs / f"sha256-{blob.sha256}"

    def work(self, blob: Blob) -> Path:
        """The folder in which a blob is assembled."""
        return self.blobs / ".osamd" / blob.sha256

    def lock(self, blob: Blob) -> Path:
        """The lock file held while a blob is pulled or deleted."""
        return self._locks / f"{blob.sha256}.lock"

    def _file(self, blob: Blob, file: Blob | Attachment, path: Path) -> BlobFile:
        work = self.work(blob)
        return BlobFile(
            url=file.url,
            sha256=file.sha256,
            nbytes=file.nbytes,
            path=path,
            partial=work / f"{file.sha256}.partial",
            ready=work / "ready" / path.name,
        )


def is_ours(blob: Blob) -> bool:
    """Whether a blob is stored in the cache, rather than in the package or at a ``file://`` URL."""
    return not blob.url.startswith(PACKAGE_SCHEME) and local_path(blob.url) is None
