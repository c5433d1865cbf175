import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from blob_server import BlobServer
from pulling import CONTENT, IMPATIENT, NOBODY, OTHER, PATIENT, blob_path, blobs_in, model_of, partial_path

from osamd.errors import (
    InsufficientStorageError,
    StorageError,
)
from osamd.library import partials
from osamd.library.store import Store


def test_disk_space_is_checked_before_the_download(
    blobs: BlobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a byte less free than the file and the spare need, nothing is written; the free space is made up."""
    free = partials.SPARE_BYTES + len(CONTENT) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(InsufficientStorageError, match="bytes free") as caught:
        Store(tmp_path, patience=PATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert (503, "disk_full") == (caught.value.status, caught.value.code)
    assert str(tmp_path) not in caught.value.public_message
    assert 0 == partial_path(tmp_path).stat().st_size
    free += 1
    Store(tmp_path, patience=PATIENT).pull(model_of(f"{blobs.url}/e"))
    assert CONTENT == blob_path(tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, InsufficientStorageError),
        (errno.EDQUOT, InsufficientStorageError),
        (errno.EIO, StorageError),
    ],
)
def test_partial_file_is_deleted_when_the_disk_fills_up(
    blobs: BlobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[StorageError]
) -> None:
    """A write error ends the pull, and on a full disk the partial file is deleted; the error is injected."""
    write = partials.Partial.append
    left = [3]

    def failing(self: partials.Partial, chunk: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            with self._writing():
                raise OSError(number, os.strerror(number))
        write(self, chunk)

    monkeypatch.setattr(partials.Partial, "append", failing)
    with pytest.raises(StorageError) as caught:
        Store(tmp_path, patience=PATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert expected is type(caught.value)
    assert [] == blobs_in(tmp_path)
    assert (number == errno.EIO) == bool(partial_path(tmp_path).stat().st_size)


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounts a small disk")
def test_full_disk_is_a_storage_error(blobs: BlobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system smaller than the file, the pull ends as a full disk, and leaves no bytes there."""
    cache = tmp_path / "small"
    cache.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=131072", "none", cache], check=False).returncode:
        pytest.skip("may not mount")
    try:
        monkeypatch.setattr(partials, "SPARE_BYTES", -(2**40))
        with pytest.raises(InsufficientStorageError):
            Store(cache, patience=PATIENT).pull(model_of(blobs.put("/e", CONTENT)))
        assert [] == blobs_in(cache)
        assert 0 == partial_path(cache).stat().st_size
    finally:
        subprocess.run(["umount", cache], check=True)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], Path]]:
    """Makes a folder that this process may read but not write, also when it runs as root."""
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)

        def make(source: Path) -> Path:
            cache = Path(base) / "cache"
            shutil.copytree(source, cache)
            for path in [cache, *cache.rglob("*")]:
                path.chmod(0o555)
            if os.geteuid() == 0:
                os.seteuid(NOBODY)
            return cache

        try:
            yield make
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            for path in [Path(base), *Path(base).rglob("*")]:
                path.chmod(0o755)


def test_a_read_only_cache_is_used_but_not_filled(
    blobs: BlobServer, tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    """What is in a read-only cache can be used and pulled again; what is not gets a clear error."""
    here, elsewhere = model_of(blobs.put("/e", CONTENT)), model_of(blobs.put("/f", OTHER), OTHER)
    Store(tmp_path / "cache", patience=IMPATIENT).pull(here)
    cache = read_only(tmp_path / "cache")
    store = Store(cache, patience=IMPATIENT)
    store.pull(here)
    assert {"encoder": blob_path(cache)} == store.paths(here)
    with pytest.raises(StorageError, match="Permission denied"):
        store.pull(elsewhere)
    with pytest.raises(StorageError, match="Permission denied"):
        store.remove(here, catalog=[here])
    assert store.is_present(here)


def test_a_cache_that_is_a_file_is_an_error_of_the_tree(blobs: BlobServer, tmp_path: Path) -> None:
    """Where no folder can be made, the error names the place."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match="cache"):
        Store(tmp_path / "cache", patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))
