"""Where the files of blobs are: in osam's layout below one cache folder, inside the package, or where a row says.

::

    models/blobs/sha256-HEX        a blob, or a folder for a blob with attachments, each under its own name
    models/blobs/.osamd/HEX/       what is being pulled: beside the blobs, so that a rename publishes it
    osamd/locks/HEX.lock           whose turn it is to pull a blob
    osamd/verified/                which files were found intact, as osamd.library.verified keeps them
    osamd/graphs/                  optimised graphs, as osamd.runtime.graphs keeps them
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
    """A file of a blob and its place on the disk.

    Attributes:
        url: where it comes from.
        sha256: digest of its content, hexadecimal, or empty.
        nbytes: its size, where the catalogue gives it.
        path: where it is, or will be.
        partial: where it is while it is not complete.
        ready: where it waits, complete and verified, for the rest of its blob.
    """

    url: str
    sha256: str
    nbytes: int | None
    path: Path
    partial: Path
    ready: Path

    @property
    def is_here(self) -> bool:
        """Whether it is in its place. Never an error, as that of a folder that may not be read."""
        return os.path.isfile(self.path)  # noqa: PTH113 - Path.is_file raises there

    def stamp(self) -> Stamp | None:
        """What changes when the file does; None when there is none."""
        return stamp_of(self.path)


class Layout:
    """Places below one cache folder.

    Args:
        cache: the folder osam calls ``~/.cache/osam``.
    """

    def __init__(self, cache: Path) -> None:
        self.blobs = cache / "models" / "blobs"
        self.verified = cache / "osamd" / "verified"
        self._locks = cache / "osamd" / "locks"

    def files(self, blob: Blob) -> list[BlobFile]:
        """The files of a blob, its own first."""
        place = self.place(blob)
        own = place / filename_of(blob.url) if is_ours(blob) and blob.attachments else place
        beside = [(attachment, own.with_name(filename_of(attachment.url))) for attachment in blob.attachments]
        return [self._file(blob, blob, own), *(self._file(blob, attachment, path) for attachment, path in beside)]

    def model_files(self, model: Model) -> list[BlobFile]:
        """The files of all blobs of a model."""
        return [file for blob in model.blobs.values() for file in self.files(blob)]

    def place(self, blob: Blob) -> Path:
        """The file of a blob, or the folder of one with attachments that is kept here."""
        if blob.url.startswith(PACKAGE_SCHEME):
            name = blob.url.removeprefix(PACKAGE_SCHEME)
            return Path(str(resources.files("osamd.models").joinpath("builtin_net", name)))
        return local_path(blob.url) or self.blobs / f"sha256-{blob.sha256}"

    def work(self, blob: Blob) -> Path:
        """The folder in which a blob is put together."""
        return self.blobs / ".osamd" / blob.sha256

    def lock(self, blob: Blob) -> Path:
        """The file that is locked while a blob is pulled or deleted."""
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
    """Whether a blob is kept in the cache, not in the package or where the user has it."""
    return not blob.url.startswith(PACKAGE_SCHEME) and local_path(blob.url) is None
