"""Which files have been seen to have their digests, remembered across processes, so that a start need not hash again.

A note lies below the cache for each file, with the stamp it had when it was hashed. Whoever may write there may write
the blobs as well. A change that leaves size, time and inode alone, as of a disk that rots, is seen only by a pull,
which hashes always.
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
    """Files that were hashed and found to be what they should be.

    Args:
        folder: of the notes; made when the first is written. Where it cannot be written, they last as long as this.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: dict[Path, str] = {}

    def knows(self, file: BlobFile) -> bool:
        """Whether the file is as it was when it was found intact."""
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
        """Note that the file was intact when it had this stamp."""
        note = _note(file, stamp)
        if self._notes.get(file.path) == note and self.knows(file):
            return
        self._notes[file.path] = note
        # Where it cannot be written, the next process hashes again.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            sweep(self._folder)
            write_beside(self._place(file), note.encode())

    def forget(self, file: BlobFile) -> None:
        """Drop what is noted of a file that is gone."""
        self._notes.pop(file.path, None)
        with contextlib.suppress(OSError):
            self._place(file).unlink(missing_ok=True)

    def _place(self, file: BlobFile) -> Path:
        return self._folder / hashlib.sha256(os.fsencode(file.path.absolute())).hexdigest()


def is_intact(file: BlobFile, tell: Callable[[int], None]) -> bool:
    """Whether a file has the digest it should have; ``tell`` hears how many bytes were read.

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
