"""A partial download: its content so far, its running digest, its source, and whether the rest fits on the disk."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from osamd.errors import InsufficientStorageError, StorageError
from osamd.files import Stamp, stamp_of, write_beside

CHUNK_BYTES = 1024 * 1024
# Keep some disk space free: others write to it as well.
SPARE_BYTES = 256 * 1024 * 1024
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


class Partial:
    """A file that is being downloaded.

    A note with its source, the source's ETag and the expected size is kept beside it, with the suffix ``.json``.
    The writer of the latest note owns the file. The blob's lock allows only one owner at a time, except on volumes
    where locks do not work; there, the note tells an owner that another process has taken over.

    Args:
        path: the file.
        total: size, if known from the start.

    Attributes:
        size: bytes so far.
        total: expected bytes, or None while unknown.
    """

    def __init__(self, path: Path, *, total: int | None) -> None:
        self.path = path
        self.size = 0
        self.total = total
        self._hasher = hashlib.sha256()
        self._file: FileIO | None = None
        self._note: Stamp | None = None

    @property
    def sha256(self) -> str:
        """The digest of the content so far, hexadecimal."""
        return self._hasher.hexdigest()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Open the file, creating it if missing, for the methods below."""
        with self._writing():
            self._file = FileIO(self.path, "ab", opener=_open_here)
        try:
            yield
        finally:
            self._file.close()
            self._file = None

    def take_up(self) -> Iterator[None]:
        """Hash what an earlier download left."""
        for chunk in read_chunks(self.path):
            self._hasher.update(chunk)
            self.size += len(chunk)
            yield

    def append(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            StorageError: the file cannot be written, or another download has taken it over.
        """
        self.check_own()
        with self._writing():
            view = memoryview(chunk)
            while view:
                view = view[self._opened_file.write(view) :]
        self._hasher.update(chunk)
        self.size += len(chunk)

    def start_over(self) -> None:
        """Discard the content so far."""
        if self.size:
            with self._writing():
                self._opened_file.truncate(0)
        self._hasher = hashlib.sha256()
        self.size = 0

    def sync(self) -> None:
        """Sync the file to disk."""
        with self._writing():
            os.fsync(self._opened_file.fileno())

    def check_room(self) -> None:
        """Check that the rest fits on the disk, with a reserve.

        Raises:
            InsufficientStorageError: it does not.
        """
        needed = SPARE_BYTES + (self.total - self.size if self.total is not None else 0)
        with self._writing():
            free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise InsufficientStorageError(
                f"{self.path.parent} has {free} bytes free; {needed} are needed, including a reserve of {SPARE_BYTES}"
            )

    def write_note(self, *, source: str, etag: str) -> None:
        """Write the note: the source for whoever resumes the download, ``total`` for those that wait for it."""
        note = {"source": _hidden(source), "etag": etag, "total": self.total}
        with self._writing():
            self._note = write_beside(_note_path(self.path), json.dumps(note).encode())

    def check_own(self) -> None:
        """Check that this download still owns the file.

        Raises:
            StorageError: another download has taken it over.
        """
        if stamp_of(_note_path(self.path)) != self._note:
            raise self._shared()

    def check_whole(self) -> Iterator[None]:
        """Read the file again and check that it holds what was hashed during the download.

        Raises:
            StorageError: it does not, because another download wrote to it.
        """
        hasher = hashlib.sha256()
        for chunk in read_chunks(self.path):
            hasher.update(chunk)
            yield
        if self._note is not None:
            self.check_own()
        if hasher.digest() != self._hasher.digest():
            self.start_over()
            raise self._shared()

    def _shared(self) -> StorageError:
        return StorageError(
            f"{self.path} was written by two downloads at once: file locks do not work on this volume. Pull again, with"
            " only one server at a time pulling into it"
        )

    def etag_at(self, source: str) -> str:
        """The ETag the source gave for this content; empty if it is from another source."""
        note = _read_note(self.path)
        etag = note.get("etag") if note.get("source") == _hidden(source) else ""
        return etag if isinstance(etag, str) else ""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                # A full disk affects every program on the machine; a download can simply be repeated.
                with contextlib.suppress(OSError):
                    os.truncate(self.path, 0)
            raise storage_error(error, self.path) from error

    @property
    def _opened_file(self) -> FileIO:
        if self._file is None:
            raise RuntimeError("a partial file must be open to be written")
        return self._file


def noted_total(path: Path) -> int | None:
    """The expected size of another process's partial file, if known."""
    total = _read_note(path).get("total")
    return total if isinstance(total, int) else None


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of a file in chunks.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """Convert an OS error to an osamd error."""
    kind = InsufficientStorageError if error.errno in NO_ROOM else StorageError
    hint = "; set OSAMD_CACHE to a folder that this user may write" if error.errno in NO_RIGHT else ""
    return kind(f"cannot use {path}: {error.strerror or error}{hint}")


def _open_here(path: str, flags: int) -> int:
    """Open one of our files without following a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _note_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note_path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _hidden(source: str) -> str:
    """The hash of a URL, which may contain a secret and so is not stored itself."""
    return hashlib.sha256(source.encode()).hexdigest()
