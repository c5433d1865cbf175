"""Pull one blob from a mirror or its own URL: once for all waiting processes, published only when verified."""

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from osamd.errors import (
    BlobDigestError,
    InsufficientStorageError,
    ModelError,
    PullError,
    ShuttingDownError,
    StorageError,
)
from osamd.events import PullProgress, PullStatus
from osamd.files import Stamp
from osamd.library.catalog import Blob
from osamd.library.downloads import Download, Patience
from osamd.library.layout import BlobFile, Layout
from osamd.library.locks import Turn, exclusive
from osamd.library.partials import Partial, noted_total, storage_error
from osamd.library.verified import VerifiedFiles, is_intact

logger = logging.getLogger("osamd")

DIRECT = "direct"
VERDICTS: dict[str, type[ModelError]] = {
    kind.code: kind for kind in (PullError, BlobDigestError, StorageError, InsufficientStorageError)
}

OnProgress = Callable[[PullProgress], None]
Tell = Callable[[BlobFile, PullStatus, int, int | None], None]


class BlobPull:
    """The pull of one blob of a model.

    Args:
        blob: the blob to pull.
        label: model and role, for messages.
        layout: the paths of its files.
        verified: records which files are intact.
        endpoints: mirrors and ``direct``, in the order they are tried.
        patience: timeouts and retries.
        tell: called with file, status, completed and total bytes.
        stop: set it to stop the pull; None if it is never stopped.
    """

    def __init__(
        self,
        blob: Blob,
        *,
        label: str,
        layout: Layout,
        verified: VerifiedFiles,
        endpoints: Sequence[str],
        patience: Patience,
        tell: Tell,
        stop: threading.Event | None,
    ) -> None:
        self._blob = blob
        self._label = label
        self._layout = layout
        self._verified = verified
        self._endpoints = endpoints
        self._patience = patience
        self._tell = tell
        self._stop = stop
        self._files = layout.files(blob)

    def run(self) -> None:
        """Return once every file of the blob is on disk and verified."""
        damaged: dict[BlobFile, Stamp] = {}
        for file in self._files:
            stamp = file.stamp()
            if stamp is None:
                continue
            if self._is_intact(file):
                self._verified.remember(file, stamp)
            else:
                damaged[file] = stamp
        if damaged or not self._is_complete():
            with turn_of(self._layout.lock(self._blob), self._wait) as turn:
                if turn.verdict:
                    raise _error_of(turn.verdict)
                self._drop(damaged)
                try:
                    self._fill()
                except (PullError, BlobDigestError, StorageError) as error:
                    turn.leave(json.dumps([error.code, str(error), error.retry_after_s]))
                    raise
        for file in self._files:
            with storing(file.path):
                size = file.path.stat().st_size
            self._tell(file, "done", size, size)

    def _is_complete(self) -> bool:
        return all(file.is_here for file in self._files)

    def _is_intact(self, file: BlobFile) -> bool:
        def tell(completed: int) -> None:
            self._check_stopped()
            self._tell(file, "verifying", completed, None)

        return is_intact(file, tell)

    def _drop(self, damaged: dict[BlobFile, Stamp]) -> None:
        place = self._layout.place(self._blob)
        if place.is_symlink() and (damaged or not self._is_complete()):
            # The target of a link is not ours; download the blob into the cache instead.
            with storing(place):
                place.unlink()
            return
        for file, stamp in damaged.items():
            # Unless another process has replaced it in the meantime.
            if file.stamp() == stamp:
                logger.warning("%s: %s is damaged; downloading it again", self._label, file.path)
                with storing(file.path):
                    file.path.unlink()

    def _fill(self) -> None:
        """Download missing files and move them into place."""
        missing = [file for file in self._files if not file.is_here]
        for file in missing:
            with storing(file.ready):
                file.ready.parent.mkdir(parents=True, exist_ok=True)
            # A ready file was verified before it got this name, perhaps by a pull that was then killed.
            if not file.ready.exists():
                self._download(file)
                with storing(file.ready):
                    file.partial.rename(file.ready)
        if missing:
            with storing(self._layout.place(self._blob)):
                self._publish(missing)
        for file in missing:
            # Its content was hashed during the download.
            stamp = file.stamp()
            if stamp is not None:
                self._verified.remember(file, stamp)
        shutil.rmtree(self._layout.work(self._blob), ignore_errors=True)

    def _download(self, file: BlobFile) -> None:
        sources = [
            file.url if endpoint == DIRECT else f"{endpoint.rstrip('/')}/{file.sha256}" for endpoint in self._endpoints
        ]
        try:
            Download(
                sources,
                sha256=file.sha256,
                partial=Partial(file.partial, total=file.nbytes),
                report=lambda status, completed, total: self._tell(file, status, completed, total),
                stop=self._stop,
                patience=self._patience,
            ).run()
        except (PullError, BlobDigestError) as error:
            hint = (
                "" if DIRECT in self._endpoints else f". Add {DIRECT!r} to OSAM_BLOB_ENDPOINT to also try its own URL"
            )
            raise type(error)(f"{self._label}: {error}{hint}", retry_after_s=error.retry_after_s) from error

    def _publish(self, missing: Sequence[BlobFile]) -> None:
        place, blobs = self._layout.place(self._blob), self._layout.blobs
        if not self._blob.attachments:
            missing[0].ready.replace(place)
            _sync_folder(blobs)
            return
        ready = missing[0].ready.parent
        _sync_folder(ready)
        if place.is_symlink() or place.is_file():
            # A dangling link, or the same blob without attachments, which osam replaces as well.
            place.unlink()
        try:
            ready.rename(place)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            # Part of it exists already, from osam or from before it was damaged; the graph is moved last.
            for file in reversed(missing):
                file.ready.replace(file.path)
            _sync_folder(place)
        _sync_folder(blobs)

    def _wait(self) -> None:
        """Report the progress of the pull that we wait for."""
        self._check_stopped()
        for file in self._files:
            if not file.is_here and not file.ready.exists():
                with contextlib.suppress(OSError):
                    self._tell(file, "waiting", file.partial.stat().st_size, noted_total(file.partial))
                return

    def _check_stopped(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise ShuttingDownError("the pull was stopped; the next one resumes it")


@contextlib.contextmanager
def turn_of(lock: Path, while_waiting: Callable[[], None]) -> Iterator[Turn]:
    """Hold the lock of a blob.

    Args:
        lock: its lock file.
        while_waiting: called a few times a second; an exception from it ends the wait.
    """
    with contextlib.ExitStack() as stack:
        with storing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            turn = stack.enter_context(exclusive(lock, while_waiting=while_waiting))
        yield turn


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Convert OS errors to osamd errors."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def _sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _error_of(verdict: str) -> ModelError:
    """The error that ended the pull we waited for."""
    code, message, retry_after_s = json.loads(verdict)
    return VERDICTS[code](message, retry_after_s=retry_after_s)
