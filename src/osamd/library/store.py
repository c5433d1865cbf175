"""Content-addressed blobs on disk, in osam's layout so that both can share a cache."""

import os
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from osamd.errors import BlobDigestError, InvalidRequestError, ModelUnavailableError, OverloadedError
from osamd.events import PullProgress, PullStatus
from osamd.files import folder_problem
from osamd.library.catalog import Blob, Model
from osamd.library.downloads import Patience
from osamd.library.layout import BlobFile, Layout, is_ours
from osamd.library.pulls import DIRECT, BlobPull, OnProgress, Tell, storing, turn_of
from osamd.library.rows import PACKAGE_SCHEME
from osamd.library.verified import VerifiedFiles, is_intact

TELL_S = 0.2


class Store:
    """The blobs below one cache folder.

    Args:
        cache: the folder osam calls ``~/.cache/osam``.
        endpoints: mirrors in the order they are tried, each serving a blob under its bare SHA-256; ``direct`` means the
                blob's own URL. As in osam, only the listed ones are tried; an empty list means ``direct``.
        patience: timeouts and retries; None for the defaults.
    """

    def __init__(self, cache: Path, *, endpoints: Sequence[str] = (), patience: Patience | None = None) -> None:
        self._cache = cache
        self._layout = Layout(cache)
        self._endpoints = tuple(endpoints) or (DIRECT,)
        self._patience = patience or Patience()
        self._verified = VerifiedFiles(self._layout.verified)

    def problem(self) -> str | None:
        """Why the cache folder cannot be used; None if it can. Reads the disk."""
        return folder_problem(self._cache)

    def paths(self, model: Model) -> dict[str, Path]:
        """The files of a model by role.

        Each file is verified, unless a pull or an earlier process has verified it in its current state.
        Hashing takes 0.6 s a gigabyte, too much for every start. Files that ship with osamd are trusted like its code,
        and a ``file://`` blob may have no digest.

        Raises:
            ModelUnavailableError: a blob is missing; names the first one.
            BlobDigestError: a file does not match the digest in the catalogue.
            StorageError: a file cannot be read.
        """
        # Report missing files before hashing gigabytes.
        paths = {role: self._present(model, role, blob) for role, blob in model.blobs.items()}
        for role, blob in model.blobs.items():
            self._verify(model, role, blob)
        return paths

    def places(self, model: Model) -> list[Path]:
        """The paths of a model's files, whether they exist or not."""
        return [file.path for file in self._layout.model_files(model)]

    def is_present(self, model: Model) -> bool:
        """Whether every file of the model is on disk."""
        return all(file.is_here for file in self._layout.model_files(model))

    def size(self, model: Model) -> int | None:
        """Total bytes of the model's files; None if one is missing."""
        statuses = self._statuses(model)
        return None if statuses is None else sum(status.st_size for status in statuses)

    def modified(self, model: Model) -> datetime | None:
        """When the newest file of the model was written; None if one is missing."""
        statuses = self._statuses(model)
        return None if statuses is None else datetime.fromtimestamp(max(s.st_mtime for s in statuses), UTC)

    def pull(self, model: Model, on_progress: OnProgress | None = None, *, stop: threading.Event | None = None) -> None:
        """Download every file of a model, once even if several threads and processes pull it.

        Existing files are verified, and replaced if damaged. To just use a model, check ``is_present`` first, which
        reads no file.

        Args:
            model: a row of the catalogue.
            on_progress: called with progress a few times a second, on the calling thread.
            stop: set it to stop the pull; partial files are kept for the next one.

        Raises:
            ModelUnavailableError: a ``file://`` blob does not exist.
            PullError: no source delivered a file.
            BlobDigestError: a source or a ``file://`` blob has different content.
            StorageError: the cache cannot be written or is full.
            ShuttingDownError: it was stopped.
        """
        for role, blob in model.blobs.items():
            if not is_ours(blob):
                self._present(model, role, blob)
                self._verify(model, role, blob)
                continue
            BlobPull(
                blob,
                label=f"{model.name}, {role}",
                layout=self._layout,
                verified=self._verified,
                endpoints=self._endpoints,
                patience=self._patience,
                tell=_teller(model.name, role, on_progress),
                stop=stop,
            ).run()

    def remove(self, model: Model, *, catalog: Iterable[Model]) -> int:
        """Delete the files of a model and its unfinished downloads.

        Args:
            model: a row of the catalogue.
            catalog: all rows; a blob shared with another model on disk is kept.

        Returns:
            Bytes freed.

        Raises:
            InvalidRequestError: its files are not in the cache: they ship with osamd or are ``file://`` blobs; or it is
                a chain.
            OverloadedError: it is being pulled.
            StorageError: the cache cannot be written.
        """
        if model.parts:
            names = " and ".join(part.name for part in model.parts)
            raise InvalidRequestError(f"{model.name} has no files of its own: delete {names} instead", field="model")
        own = [blob for blob in model.blobs.values() if is_ours(blob)]
        if not own:
            raise InvalidRequestError(f"cannot delete {model.name}: its files are not in the cache")
        needed = {
            self._layout.place(blob)
            for other in catalog
            if other.name != model.name and not other.parts and self.is_present(other)
            for blob in other.blobs.values()
        }
        return sum(self._remove_blob(blob, model, is_needed=self._layout.place(blob) in needed) for blob in own)

    def _remove_blob(self, blob: Blob, model: Model, *, is_needed: bool) -> int:
        def refuse() -> None:
            raise OverloadedError(f"{model.name} is being pulled right now", field="model")

        place, work = self._layout.place(blob), self._layout.work(blob)
        with storing(place):
            if not work.exists() and (is_needed or not place.exists()):
                return 0
        with turn_of(self._layout.lock(blob), refuse), storing(place):
            freed = _bytes_below(work)
            shutil.rmtree(work, ignore_errors=True)
            if not is_needed:
                freed += _bytes_below(place)
                for file in self._layout.files(blob):
                    self._verified.forget(file)
                if place.is_dir():
                    # Rename first: a folder exists with all its files or not at all.
                    work.mkdir(parents=True)
                    place.rename(work / "removed")
                    shutil.rmtree(work)
                else:
                    place.unlink(missing_ok=True)
        return freed

    def _present(self, model: Model, role: str, blob: Blob) -> Path:
        files = self._layout.files(blob)
        if not all(file.is_here for file in files):
            which = f"blob sha256-{blob.sha256}" if blob.sha256 else "file"
            raise ModelUnavailableError(
                f"{model.name} is not on this server: its {role} {which} is missing", field="model"
            )
        return files[0].path

    def _verify(self, model: Model, role: str, blob: Blob) -> None:
        for file in () if blob.url.startswith(PACKAGE_SCHEME) else self._layout.files(blob):
            if not file.sha256 or self._verified.knows(file):
                continue
            stamp = file.stamp()
            if not is_intact(file, lambda _: None):
                hint = "; pull it again" if is_ours(blob) else ""
                raise BlobDigestError(f"{model.name}, {role}: {file.path} is not sha256-{file.sha256}{hint}")
            if stamp is not None:
                self._verified.remember(file, stamp)

    def _statuses(self, model: Model) -> list[os.stat_result] | None:
        try:
            return [file.path.stat() for file in self._layout.model_files(model)]
        except OSError:
            return None


def _teller(model: str, role: str, on_progress: OnProgress | None) -> Tell:
    """Convert a pull's reports to progress: every change of status or file, and a few a second in between."""
    last: tuple[str, PullStatus] | None = None
    told = 0.0

    def tell(file: BlobFile, status: PullStatus, completed: int, total: int | None) -> None:
        nonlocal last, told
        now = time.monotonic()
        if on_progress is not None and ((file.sha256, status) != last or now - told >= TELL_S):
            last, told = (file.sha256, status), now
            on_progress(PullProgress(model, role, file.sha256, total, completed, status))

    return tell


def _bytes_below(path: Path) -> int:
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
