"""Pulls on a volume whose file locks do not exclude anyone, as on some network volumes."""

import fcntl
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from blob_server import Answer, BlobServer
from pulling import CONTENT, IMPATIENT, blob_path, model_of, partial_path
from waiting import WAIT_S

from osamd.errors import StorageError
from osamd.library.store import Store

HALF = 100_000


@pytest.fixture(autouse=True)
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads in place of servers on other machines."""
    with ThreadPoolExecutor(4) as running:
        yield running


def start(pool: ThreadPoolExecutor, cache: Path, url: str, blobs: BlobServer) -> "Future[None]":
    """A pull that has begun to receive."""
    blobs.sending.clear()
    pull = pool.submit(Store(cache, patience=IMPATIENT).pull, model_of(url))
    assert blobs.sending.wait(WAIT_S)
    return pull


def arrived(cache: Path, size: int) -> None:
    """Return when so much of the file is on the disk."""
    pause = threading.Event()
    while not (partial_path(cache).exists() and partial_path(cache).stat().st_size >= size):
        pause.wait(0.01)


def test_late_writer_does_not_touch_the_published_file(
    blobs: BlobServer, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """A download that another one has overtaken does not append to what that one published."""
    go_on = threading.Event()
    url = blobs.put("/e", CONTENT, Answer(send=HALF, hold=go_on))
    late = start(pool, tmp_path, url, blobs)
    arrived(tmp_path, HALF)
    Store(tmp_path, patience=IMPATIENT).pull(model_of(url))
    go_on.set()
    with pytest.raises(StorageError, match="two downloads at once"):
        late.result(WAIT_S)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert {"encoder": blob_path(tmp_path)} == Store(tmp_path).paths(model_of(url))


def test_file_written_by_another_download_is_not_published(
    blobs: BlobServer, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """The file is hashed again before it is published: bytes of another writer fail the pull."""
    go_on = threading.Event()
    url = blobs.put("/e", CONTENT, Answer(send=HALF, hold=go_on))
    pull = start(pool, tmp_path, url, blobs)
    arrived(tmp_path, HALF)
    with partial_path(tmp_path).open("ab") as other:
        other.write(b"of another writer")
    go_on.set()
    with pytest.raises(StorageError, match="two downloads at once"):
        pull.result(WAIT_S)
    assert not blob_path(tmp_path).exists()
    Store(tmp_path, patience=IMPATIENT).pull(model_of(url))
    assert CONTENT == blob_path(tmp_path).read_bytes()
