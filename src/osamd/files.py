"""Our own files: atomic writes, stamps to detect changes, and text encodings."""

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Size, time of change in nanoseconds, inode.
Stamp = tuple[int, int, int]

TEMPORARY: Final = "osamd-part-"
# No write takes this long, so an older temporary file was left by a killed process.
ABANDONED_S: Final = 3600.0


def stamp_of(path: Path) -> Stamp | None:
    """A value that changes when the file does; None if it does not exist or cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def write_beside(path: Path, content: bytes) -> Stamp:
    """Write a file atomically: to a temporary file in the same folder, which is then renamed.

    Args:
        path: the destination; its folder must exist.
        content: the whole content.

    Returns:
        Its stamp.

    Raises:
        OSError: it cannot be written.
    """
    # Not tempfile: its files are private to the user, and caches are shared.
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            status = os.fstat(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return status.st_size, status.st_mtime_ns, status.st_ino


@contextlib.contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder inside another, which is created if needed, for files that are renamed when complete.

    Leftovers of killed processes are deleted.

    Raises:
        OSError: it cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY) as name:
        yield Path(name)


def text_encoding(data: bytes) -> str:
    """How a text file that people edit is encoded: UTF-8 with or without a byte order mark, UTF-16 or UTF-32.

    Windows editors and shells write all of these. Without a mark, it is detected by the zeros in the first characters.
    """
    return json.detect_encoding(data[:4])


def sweep(folder: Path) -> None:
    """Delete temporary files and folders older than an hour."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            status = left.lstat()
            if time.time() - status.st_mtime <= ABANDONED_S:
                continue
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(left)
            else:
                left.unlink()


def folder_problem(folder: Path) -> str | None:
    """Why a folder, which need not exist yet, cannot be written; None if it can."""
    place = folder.absolute()
    # Unlike pathlib, this never raises for a folder that cannot be entered.
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):  # noqa: PTH112
        return f"{place} is not a folder"
    if not os.access(place, os.R_OK | os.X_OK):
        return f"{place} cannot be entered by this user (uid {os.geteuid()})"
    if not os.access(place, os.W_OK):
        return f"{place} cannot be written by this user (uid {os.geteuid()})"
    return None


def encoding_of(file: Path | None) -> str:
    """The encoding of a text file; UTF-8 if it does not exist."""
    try:
        with (file or Path(os.devnull)).open("rb") as opened:
            return text_encoding(opened.read(4))
    except OSError:
        return "utf-8"


def at_home(path: Path) -> Path:
    """A path with its ``~`` replaced.

    Raises:
        ValueError: it names a user who has no home directory here.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        if path.parts[0] != "~":
            raise ValueError("the user after ~ has no home directory here") from None
        # No HOME and no entry in the user database, as in containers with an arbitrary uid; their home is /.
        return Path("/", *path.parts[1:])
