"""Output files that are either whole or absent, and locks between processes that write to one folder.

A file is written beside its place under a fixed name and renamed when it is whole. The name is fixed, not random, so
that after a crash the next run overwrites the leftover instead of adding another file.

A file is on disk before it has its name, so that it is whole after a power cut too. The many small files of a shard are
not, since each would wait for the disk: they are synced together, before the shard's marker is made.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from osamd.dataset.urls import Place, UrlPath

PART: Final = ".part"
# Of a file, in bytes, on nearly every file system.
LONGEST_NAME: Final = 255
NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


@contextlib.contextmanager
def whole_file(path: Place, *, is_durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name when the block ends without an exception.

    Args:
        path: its name.
        is_durable: whether it is on disk by then; if not, ``sync_files`` before anything that says it is there.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, UrlPath):
        with path.replacing() as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    with part.open("wb") as file:
        yield file
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def write_whole(path: Place, content: bytes, *, is_durable: bool = True) -> None:
    """Write a file as ``whole_file`` does."""
    with whole_file(path, is_durable=is_durable) as file:
        file.write(content)


def link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link, replacing an earlier one; it is on disk after ``sync_files``.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(path)


def sync_files(folder: Place) -> None:
    """Wait until the files and links that were written in a folder are on disk, under their names.

    By URL each file is sent whole, and this does nothing.

    Raises:
        OSError: one could not be written.
    """
    if isinstance(folder, UrlPath):
        return
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # One call for all files, links and folders: on ext4, fsync of 200 small files one by one took six times as
        # long. os.sync would wait for other disks too, and does not say if it fails.
        if ctypes.CDLL(None, use_errno=True).syncfs(file):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(file)


def _beside(path: Path) -> Path:
    """Where a file is until it is whole."""
    name = path.name + PART
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(path.name)).hexdigest() + PART
    return path.with_name(name)


@contextlib.contextmanager
def locked(path: Place) -> Iterator[None]:
    """Hold a file's lock, waiting for it; it ends with the process that holds it, however that ends.

    By URL there are no locks, and this does nothing.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    if isinstance(path, UrlPath):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        take_lock(file, wait=True)
        yield
    finally:
        os.close(file)


def take_lock(file: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed.

    On a file system without locks this does nothing: there, several processes need ``--part``.

    Args:
        file: a file descriptor.
        wait: whether to wait for another process that has it.

    Returns:
        Whether no other process has it.

    Raises:
        OSError: it cannot be locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
