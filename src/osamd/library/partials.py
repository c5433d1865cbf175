"""A file on its way: what is here of it, its running digest, where it came from, and whether the rest will fit."""

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
# A disk is not filled to the last byte: others write on it too.
SPARE_BYTES = 256 * 1024 * 1024
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


class Partial:
    """A file that grows until its content has a digest.

    A note of its source, the source's ETag and the size it will have lies beside it under the same name with ``.json``.
    Whoever writes the latest note owns the file. The lock of a blob gives it one owner at a time, except where the
    volume's locks do not work; then the note shows an owner that there is another one.

    Args:
        path: the file.
        total: size where it is known from the start.

    Attributes:
        size: bytes that are here.
        total: bytes there will be, or None while nobody has said.
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
        """The digest of what is here, hexadecimal."""
        return self._hasher.hexdigest()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Open the file, made if it is not there, for all that follows."""
        with self._writing():
            self._file = FileIO(self.path, "ab", opener=_open_here)
        try:
            yield
        finally:
            self._file.close()
            self._file = None

    def take_up(self) -> Iterator[None]:
        """Hash what was left here before, piece by piece."""
        for chunk in read_chunks(self.path):
            self._hasher.update(chunk)
            self.size += len(chunk)
            yield

    def append(self, chunk: bytes) -> None:
        """Write more of it.

        Raises:
            StorageError: it cannot be written, or somebody else has begun to write it.
        """
        self.check_own()
        with self._writing():
            view = memoryview(chunk)
            while view:
                view = view[self._opened_file.write(view) :]
        self._hasher.update(chunk)
        self.size += len(chunk)

    def start_over(self) -> None:
        """Forget what is here."""
        if self.size:
            with self._writing():
                self._opened_file.truncate(0)
        self._hasher = hashlib.sha256()
        self.size = 0

    def sync(self) -> None:
        """Return when all of it is on the disk."""
        with self._writing():
            os.fsync(self._opened_file.fileno())

    def check_room(self) -> None:
        """See whether what is missing fits on the disk, with something to spare.

        Raises:
            InsufficientStorageError: it does not.
        """
        needed = SPARE_BYTES + (self.total - self.size if self.total is not None else 0)
        with self._writing():
            free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise InsufficientStorageError(
                f"{self.path.parent} has {free} bytes free, and {needed} are needed, {SPARE_BYTES} of them to spare"
            )

    def write_note(self, *, source: str, etag: str) -> None:
        """Remember where it comes from, for who takes it up; and ``total`` for who waits for it."""
        note = {"source": _hidden(source), "etag": etag, "total": self.total}
        with self._writing():
            self._note = write_beside(_note_path(self.path), json.dumps(note).encode())

    def check_own(self) -> None:
        """See whether the file is still this download's.

        Raises:
            StorageError: another one has taken it over.
        """
        if stamp_of(_note_path(self.path)) != self._note:
            raise self._shared()

    def check_whole(self) -> Iterator[None]:
        """Read the file again, piece by piece, and see whether it holds what was hashed as it came.

        Raises:
            StorageError: it does not, since another download wrote there too.
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
            f"{self.path} was written by two downloads at once: file locks do not work on this volume. Pull again, and"
            " let only one server at a time pull into it"
        )

    def etag_at(self, source: str) -> str:
        """The ETag the source gave for what is here; empty when this is not from there."""
        note = _read_note(self.path)
        etag = note.get("etag") if note.get("source") == _hidden(source) else ""
        return etag if isinstance(etag, str) else ""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                # A full disk hurts everybody on it, which a download that can be repeated must not.
                with contextlib.suppress(OSError):
                    os.truncate(self.path, 0)
            raise storage_error(error, self.path) from error

    @property
    def _opened_file(self) -> FileIO:
        if self._file is None:
            raise RuntimeError("a partial file is written only while it is opened")
        return self._file


def noted_total(path: Path) -> int | None:
    """The size that somebody else's partial file will have, if it is known."""
    total = _read_note(path).get("total")
    return total if isinstance(total, int) else None


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece.

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
    """The error of the tree for an error of the disk."""
    kind = InsufficientStorageError if error.errno in NO_ROOM else StorageError
    hint = "; set OSAMD_CACHE to a folder that this user may write" if error.errno in NO_RIGHT else ""
    return kind(f"{path} cannot be used: {error.strerror or error}{hint}")


def _open_here(path: str, flags: int) -> int:
    """Open a file of ours, which is never a link to somewhere else."""
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
    """A URL may hold a secret, so only its hash is written down."""
    return hashlib.sha256(source.encode()).hexdigest()
