"""Which files have been verified, remembered across processes so that a start need not hash them again.

The cache holds a note for each file, with the stamp it had when it was hashed. Anyone who can write notes can write
the blobs as well. A change that keeps size, mtime and inode, such as bit rot, is only noticed by a pull, which always
hashes.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from osamd.files import Stamp, sweep, write_beside
from osamd.library.layout import BlobFile
from osamd.library.partials import read_chunks


class VerifiedFiles:
    """Files that were verified.

    Args:
        folder: of the notes, created with the first one. If it cannot be written, notes are kept in memory only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: dict[Path, str] = {}

    def knows(self, file: BlobFile) -> bool:
        """Whether the file is unchanged since it was verified."""
        stamp = file.stamp()
        if stamp is None:
            return False
        note = _note(file, stamp)
        if self._notes.get(file.path) != note:
            try:
                if self._place(file).read_text("utf-8") != note:
                    return False
            except (OSError, ValueError):
                return False
            self._notes[file.path] = note
        return True

    def remember(self, file: BlobFile, stamp: Stamp) -> None:
        """Record that the file was intact when it had this stamp."""
        note = _note(file, stamp)
        if self._notes.get(file.path) == note and self.knows(file):
            return
        self._notes[file.path] = note
        # If the note cannot be written, the next process hashes again.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep(self._folder)
            write_beside(self._place(file), note.encode())

    def forget(self, file: BlobFile) -> None:
        """Delete the note of a file that is gone."""
        self._notes.pop(file.path, None)
        with contextlib.suppress(OSError):
            self._place(file).unlink(missing_ok=True)

    def _place(self, file: BlobFile) -> Path:
        return self._folder / hashlib.sha256(os.fsencode(file.path.absolute())).hexdigest()


def is_intact(file: BlobFile, tell: Callable[[int], None]) -> bool:
    """Whether a file has the expected digest; ``tell`` is called with the bytes read so far.

    Raises:
        StorageError: it cannot be read.
    """
    hasher, size = hashlib.sha256(), 0
    for chunk in read_chunks(file.path):
        hasher.update(chunk)
        size += len(chunk)
        tell(size)
    return hasher.hexdigest() == file.sha256


def _note(file: BlobFile, stamp: Stamp) -> str:
    return " ".join([file.sha256, *map(str, stamp)])
