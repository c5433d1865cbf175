import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from blob_server import Answer, BlobServer
from pulling import CONTENT, IMPATIENT, OTHER, blob_path, blobs_in, digest, model_of, partial_path, with_data
from waiting import WAIT_S

from osamd.errors import (
    BlobDigestError,
    InvalidRequestError,
    ModelUnavailableError,
    OverloadedError,
    PullError,
)
from osamd.events import PullProgress
from osamd.library.catalog import Blob, Model
from osamd.library.layout import BlobFile
from osamd.library.store import Store
from osamd.library.verified import is_intact


def test_a_pulled_blob_lies_where_osam_keeps_it(blobs: BlobServer, tmp_path: Path) -> None:
    """The blob has osam's name and the right content, and nothing else is left beside it."""
    model = model_of(blobs.put("/e", CONTENT))
    store = Store(tmp_path, patience=IMPATIENT)
    assert (False, None, None) == (store.is_present(model), store.size(model), store.modified(model))
    with pytest.raises(ModelUnavailableError, match=digest(CONTENT)):
        store.paths(model)
    store.pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert {"encoder": blob_path(tmp_path)} == store.paths(model)
    assert (True, len(CONTENT)) == (store.is_present(model), store.size(model))
    modified = store.modified(model)
    assert modified is not None
    assert pytest.approx(blob_path(tmp_path).stat().st_mtime, abs=1e-3) == modified.timestamp()
    assert not partial_path(tmp_path).parent.exists()


def test_progress_is_reported_from_start_to_end(blobs: BlobServer, tmp_path: Path) -> None:
    """Events name model, role and digest; the first comes with the first bytes, the last says done, none goes back."""
    model = model_of(blobs.put("/e", CONTENT))
    events: list[PullProgress] = []
    Store(tmp_path, patience=IMPATIENT).pull(model, events.append)
    assert ["downloading", "done"] == [events[0].status, events[-1].status]
    assert {("mine:latest", "encoder", digest(CONTENT), len(CONTENT))} == {
        (event.model, event.role, event.digest, event.total) for event in events
    }
    completed = [event.completed for event in events]
    assert sorted(completed) == completed
    assert len(CONTENT) == completed[-1]


def test_existing_blobs_are_verified_and_not_downloaded_again(blobs: BlobServer, tmp_path: Path) -> None:
    """A second pull reads the file and sends no requests."""
    model = model_of(blobs.put("/e", CONTENT))
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(model)
    events: list[PullProgress] = []
    store.pull(model, events.append)
    assert 1 == len(blobs.asked)
    assert ["verifying", "done"] == [event.status for event in events]


def test_a_damaged_blob_is_replaced(blobs: BlobServer, tmp_path: Path) -> None:
    """A file that has the name but not the content is downloaded again, as osam does it."""
    blob_path(tmp_path).parent.mkdir(parents=True)
    blob_path(tmp_path).write_bytes(OTHER)
    Store(tmp_path, patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert CONTENT == blob_path(tmp_path).read_bytes()


def test_damaged_blob_is_removed_even_if_no_source_works(blobs: BlobServer, tmp_path: Path) -> None:
    """A bad file is not left under its final name while its source is down."""
    blob_path(tmp_path).parent.mkdir(parents=True)
    blob_path(tmp_path).write_bytes(OTHER)
    with pytest.raises(PullError):
        Store(tmp_path, patience=IMPATIENT).pull(model_of(f"{blobs.url}/gone"))
    assert [] == blobs_in(tmp_path)


def test_empty_blob_is_valid(blobs: BlobServer, tmp_path: Path) -> None:
    """A file of no bytes is complete when its digest says so, without a request."""
    Store(tmp_path, patience=IMPATIENT).pull(model_of(blobs.put("/e", b""), b""))
    assert b"" == blob_path(tmp_path, b"").read_bytes()


def test_a_removed_model_is_gone(blobs: BlobServer, tmp_path: Path) -> None:
    """Files, folders and unfinished pulls go; the bytes freed are counted; again frees nothing."""
    plain, big = model_of(blobs.put("/e", CONTENT)), with_data(blobs)
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(plain)
    store.pull(big)
    assert [len(CONTENT), 0] == [store.remove(plain, catalog=[plain, big]) for _ in range(2)]
    assert [len(CONTENT) + 5, 0] == [store.remove(big, catalog=[plain, big]) for _ in range(2)]
    blobs.put("/e", CONTENT, Answer(send=100_000), then=Answer(404))
    with pytest.raises(PullError):
        store.pull(plain)
    assert 100_000 <= store.remove(plain, catalog=[plain])
    assert [] == [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_a_blob_another_model_needs_is_kept(blobs: BlobServer, tmp_path: Path) -> None:
    """A shared blob stays while another model that has it is here, and goes with the last one."""
    shared, own = Blob(blobs.put("/s", CONTENT), digest(CONTENT)), Blob(blobs.put("/o", OTHER), digest(OTHER))
    both = Model("both:latest", "sam", {"encoder": shared, "decoder": own})
    one = Model("one:latest", "sam", {"encoder": shared})
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(both)
    assert len(OTHER) == store.remove(both, catalog=[both, one])
    assert store.is_present(one)
    assert not store.is_present(both)
    # The other model is no longer here in whole, so it keeps nothing back.
    assert len(CONTENT) == store.remove(one, catalog=[both, one])


def test_a_model_that_is_being_pulled_is_not_removed(blobs: BlobServer, tmp_path: Path) -> None:
    """Deleting what another thread is downloading is refused for the moment."""
    hold = threading.Event()
    model = model_of(blobs.put("/e", CONTENT, Answer(send=100_000, hold=hold)))
    store = Store(tmp_path, patience=IMPATIENT)
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(store.pull, model)
        assert blobs.sending.wait(WAIT_S)
        with pytest.raises(OverloadedError, match="being pulled"):
            store.remove(model, catalog=[model])
        hold.set()
        pull.result(WAIT_S)
    assert store.is_present(model)


def test_files_outside_the_cache_are_not_removed(tmp_path: Path) -> None:
    """Files that ship with osamd and ``file://`` blobs are never deleted."""
    file = tmp_path / "e.onnx"
    file.write_bytes(CONTENT)
    for url in (file.as_uri(), "package:encoder.onnx"):
        with pytest.raises(InvalidRequestError):
            Store(tmp_path).remove(model_of(url), catalog=[])
    assert file.exists()


def test_local_file_is_used_in_place(tmp_path: Path) -> None:
    """A ``file://`` blob is not copied; without a digest any content will do, and its absence is reported."""
    file = tmp_path / "my models" / "e.onnx"
    file.parent.mkdir()
    model = Model("mine:latest", "sam", {"encoder": Blob(file.as_uri(), "")})
    store = Store(tmp_path / "cache")
    with pytest.raises(ModelUnavailableError, match="encoder file is missing"):
        store.pull(model)
    file.write_bytes(CONTENT)
    store.pull(model)
    assert {"encoder": file} == store.paths(model)
    assert not (tmp_path / "cache").exists()


def test_a_local_file_with_a_digest_is_verified_after_each_change(tmp_path: Path) -> None:
    """A ``file://`` blob whose row gives a digest is refused while it is another file."""
    file = tmp_path / "e.onnx"
    file.write_bytes(CONTENT)
    model, store = model_of(file.as_uri()), Store(tmp_path / "cache")
    store.paths(model)
    file.write_bytes(OTHER)
    os.utime(file, ns=(1, 1))
    for ask in (store.paths, store.pull):
        with pytest.raises(BlobDigestError, match="is not sha256-"):
            ask(model)
    file.write_bytes(CONTENT)
    assert {"encoder": file} == store.paths(model)


OSAM = """
import sys
from osam.types._blob import Blob
urls, hashes = sys.argv[1].split(), sys.argv[2].split()
blob = Blob(url=urls[0], hash="sha256:" + hashes[0],
            attachments=[Blob(url=u, hash="sha256:" + h) for u, h in zip(urls[1:], hashes[1:])])
before = blob.size
blob.pull()
print(before, blob.size, blob.path)
"""


def osam_pulls(home: Path, blob: Blob) -> list[str]:
    """Let osam pull a blob: its size before and after as osam sees it, and its path."""
    files = [(blob.url, blob.sha256), *((file.url, file.sha256) for file in blob.attachments)]
    arguments = [" ".join(words) for words in zip(*files, strict=True)]
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {"HOME": str(home)}
    command = [sys.executable, "-c", OSAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()


def test_blob_pulled_by_osam_is_used(blobs: BlobServer, tmp_path: Path) -> None:
    """A blob that osam 0.8.1 put into the cache is found, valid and not downloaded again."""
    store = Store(tmp_path / ".cache" / "osam", patience=IMPATIENT)
    for model in (model_of(blobs.put("/e", CONTENT)), with_data(blobs)):
        (blob,) = model.blobs.values()
        size, path = osam_pulls(tmp_path, blob)[1:]
        assert {"encoder": Path(path)} == store.paths(model)
        assert int(size) == store.size(model)
        asked = len(blobs.asked)
        store.pull(model)
        assert asked == len(blobs.asked)


def test_osam_uses_a_blob_we_pulled(blobs: BlobServer, tmp_path: Path) -> None:
    """What we put into the cache osam 0.8.1 finds whole, and does not ask for again."""
    store = Store(tmp_path / ".cache" / "osam", patience=IMPATIENT)
    for model in (model_of(blobs.put("/e", CONTENT)), with_data(blobs)):
        (blob,) = model.blobs.values()
        store.pull(model)
        asked = len(blobs.asked)
        assert [str(store.size(model)), str(store.size(model)), str(store.paths(model)["encoder"])] == osam_pulls(
            tmp_path, blob
        )
        assert asked == len(blobs.asked)


def test_store_imports_no_http_client_before_a_download() -> None:
    """Server start does not import an HTTP client."""
    code = "import sys, osamd.library.store; sys.exit('httpx2' in sys.modules)"
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert 0 == subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed in order to load them."""
    paths: list[Path] = []

    def spy(file: BlobFile, tell: Callable[[int], None]) -> bool:
        paths.append(file.path)
        return is_intact(file, tell)

    monkeypatch.setattr("osamd.library.store.is_intact", spy)
    return paths


def test_pulled_blobs_are_not_hashed_again_at_load(blobs: BlobServer, tmp_path: Path, hashed: list[Path]) -> None:
    """Neither this process nor the next one pays for it again."""
    model = model_of(blobs.put("/e", CONTENT))
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(model)
    store.paths(model)
    Store(tmp_path).paths(model)
    assert [] == hashed


def test_blobs_of_other_programs_are_hashed_once(tmp_path: Path, hashed: list[Path]) -> None:
    """A blob osam has pulled is verified when it is first loaded, and not by the next process."""
    place, model = blob_path(tmp_path), model_of("https://example.org/e")
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    for _ in range(2):
        assert {"encoder": place} == Store(tmp_path).paths(model)
    assert [place] == hashed


def test_a_flipped_bit_is_never_loaded(blobs: BlobServer, tmp_path: Path) -> None:
    """A pulled blob that has changed since is refused, in this process and the next, until a pull replaces it."""
    place, model = blob_path(tmp_path), model_of(blobs.put("/e", CONTENT))
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(model)
    content = bytearray(CONTENT)
    content[len(content) // 2] ^= 1
    place.write_bytes(content)
    for one in (store, store, Store(tmp_path)):
        with pytest.raises(BlobDigestError, match="pull it again"):
            one.paths(model)
    store.pull(model)
    assert {"encoder": place} == Store(tmp_path).paths(model)


def test_a_flipped_bit_of_an_attachment_is_never_loaded(blobs: BlobServer, tmp_path: Path) -> None:
    """Weights beside the graph are verified like the graph."""
    model = with_data(blobs)
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(model)
    store.paths(model)
    (blob_path(tmp_path, b"graph") / "graph.onnx.data").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(BlobDigestError):
        store.paths(model)


def test_each_process_hashes_once_if_notes_cannot_be_written(tmp_path: Path, hashed: list[Path]) -> None:
    """A cache that is mounted read-only costs a hash for each process, and no answer."""
    place, model = blob_path(tmp_path), model_of("https://example.org/e")
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    # A file where the folder would be: root could not write there either.
    (tmp_path / "osamd").write_bytes(b"")
    store = Store(tmp_path)
    for _ in range(2):
        assert {"encoder": place} == store.paths(model)
    assert [place] == hashed
