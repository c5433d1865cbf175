"""Output files that are either whole or absent, and locks between processes that write to one folder.

A file is written beside its place under a fixed name and renamed when it is whole. The name is fixed, not random, so
that after a crash the next run overwrites the leftover instead of adding another file.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from osamd.dataset.urls import Place, UrlPath

PART: Final = ".part"
NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


@contextlib.contextmanager
def whole_file(path: Place) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name when the block ends without an exception.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, UrlPath):
        with path.replacing() as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        yield file
    part.replace(path)


def write_whole(path: Place, content: bytes) -> None:
    """Write a file as ``whole_file`` does."""
    with whole_file(path) as file:
        file.write(content)


def link(path: Path, target: str) -> None:
    """Make ``path`` a symbolic link, replacing an earlier one.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(path)


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
