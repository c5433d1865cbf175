import re
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blob_server import Answer, BlobServer, serve_blobs
from pulling import (
    CONTENT,
    IMPATIENT,
    OTHER,
    PATIENT,
    blob_path,
    blobs_in,
    digest,
    model_of,
    partial_path,
    start_pull,
    with_data,
)
from waiting import WAIT_S

from osamd.errors import (
    BlobDigestError,
    InsufficientStorageError,
    PullError,
    ShuttingDownError,
)
from osamd.events import PullProgress
from osamd.library.downloads import Patience
from osamd.library.store import Store


def test_a_mirror_serves_blobs_by_their_digest(blobs: BlobServer, tmp_path: Path) -> None:
    """A blob's path on a mirror is its bare digest, and its own URL is not asked unless ``direct`` is named."""
    blobs.put(f"/mirror/{digest(CONTENT)}", CONTENT)
    Store(tmp_path, endpoints=[f"{blobs.url}/mirror//"], patience=IMPATIENT).pull(model_of(f"{blobs.url}/e"))
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [f"/mirror/{digest(CONTENT)}"] == [asked.path for asked in blobs.asked]


@pytest.mark.parametrize(
    "answer", [Answer(404), Answer(503), Answer(body=OTHER), Answer(send=100_000)], ids=["404", "503", "wrong", "cut"]
)
def test_failing_mirror_falls_back_to_the_next_source(blobs: BlobServer, tmp_path: Path, answer: Answer) -> None:
    """The next source is asked when a mirror lacks the blob, is down, serves something else or breaks off."""
    after = Answer(503) if answer.send else answer
    blobs.put(f"/{digest(CONTENT)}", CONTENT, answer, then=after)
    url = blobs.put("/e", CONTENT)
    Store(tmp_path, endpoints=[blobs.url, "direct"], patience=PATIENT).pull(model_of(url))
    assert CONTENT == blob_path(tmp_path).read_bytes()
    # A mirror's ETag means nothing elsewhere, so what came from it is resumed without one.
    assert [(answer.send or 0, None)] == [
        (asked.start, asked.headers.get("if-range")) for asked in blobs.asked if asked.path == "/e"
    ]


def test_a_mirror_without_direct_is_the_only_source(blobs: BlobServer, tmp_path: Path) -> None:
    """With the only mirror down the pull fails, and the error says how to allow the blob's own URL."""
    url = blobs.put("/e", CONTENT)
    with pytest.raises(PullError, match="Add 'direct' to OSAM_BLOB_ENDPOINT"):
        Store(tmp_path, endpoints=[f"{blobs.url}/mirror"], patience=PATIENT).pull(model_of(url))
    assert "/e" not in [asked.path for asked in blobs.asked]


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "slow"])
def test_slow_mirror_falls_back_to_the_next_source(blobs: BlobServer, tmp_path: Path, *, is_silent: bool) -> None:
    """A mirror that trickles or says nothing is left, and what it gave is kept."""
    hold = threading.Event()
    blobs.put(f"/{digest(CONTENT)}", CONTENT, then=Answer(send=100_000, hold=hold))
    url = blobs.put("/e", CONTENT)
    more = threading.Timer(0.1, hold.set)

    def hear(event: PullProgress) -> None:
        # The next bytes come a tenth of a second after the first, which is measured as too slow.
        if event.status == "downloading" and not is_silent and more.ident is None:
            more.start()

    patience = Patience(read_s=0.2) if is_silent else Patience(slow_s=0.05, slow_bytes_per_s=1e9)
    Store(tmp_path, endpoints=[blobs.url, "direct"], patience=patience).pull(model_of(url), hear)
    hold.set()
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert 1 == len([asked for asked in blobs.asked if asked.path != "/e"])
    (start,) = [asked.start for asked in blobs.asked if asked.path == "/e"]
    assert 100_000 <= start


def test_proxies_of_the_environment_are_used(
    blobs: BlobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HTTP_PROXY a host that only the proxy knows can be pulled from; NO_PROXY goes past it."""
    monkeypatch.setenv("HTTP_PROXY", blobs.url)
    url = blobs.put("http://models.invalid/e", CONTENT)
    Store(tmp_path / "a", patience=IMPATIENT).pull(model_of(url))
    assert CONTENT == blob_path(tmp_path / "a").read_bytes()
    assert ["http://models.invalid/e"] == [asked.path for asked in blobs.asked]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Store(tmp_path / "b", patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert "/e" == blobs.asked[-1].path


FAR, FAR_TLS = "http://models.invalid/e", "https://models.invalid/e"


@pytest.mark.parametrize(
    ("variable", "value", "url", "words"),
    [
        ("HTTP_PROXY", "gopher://[", FAR, "HTTP_PROXY: expected a proxy such as"),
        (
            "HTTP_PROXY",
            "http://me:hush@127.0.0.1:9",
            FAR,
            "the proxy http://127.0.0.1:9 from HTTP_PROXY",
        ),
        ("ALL_PROXY", "socks5://127.0.0.1:9", FAR_TLS, "ALL_PROXY: SOCKS proxies need"),
        (
            "SSL_CERT_FILE",
            "/nonexistent",
            FAR_TLS,
            "SSL_CERT_FILE: cannot read the trusted certificates",
        ),
    ],
)
def test_invalid_proxy_and_certificate_variables_are_named(
    blobs: BlobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, url: str, words: str
) -> None:
    """An invalid proxy or certificate file is reported in one line with its variable; loopback needs neither."""
    monkeypatch.setattr("osamd.proxies.importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv(variable, value)
    with pytest.raises(PullError, match=re.escape(words)) as caught:
        Store(tmp_path, patience=IMPATIENT).pull(model_of(url))
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)
    Store(tmp_path, patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))


@pytest.mark.usefixtures("blobs")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_certificates_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An untrusted server is rejected at once; SSL_CERT_FILE makes it trusted."""
    certificate = tmp_path / "server.pem"
    subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"],
            *[
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                f"{tmp_path}/key.pem",
                "-out",
                f"{tmp_path}/only.pem",
            ],
        ],
        check=True,
        capture_output=True,
    )
    certificate.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "only.pem").read_bytes())
    with serve_blobs(certificate=certificate) as secure:
        model = model_of(secure.put("/e", CONTENT))
        with pytest.raises(PullError, match="CERTIFICATE_VERIFY_FAILED"):
            Store(tmp_path, patience=PATIENT).pull(model)
        assert [] == secure.asked
        assert 1 == caplog.text.count("could not download")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "only.pem"))
        Store(tmp_path, patience=IMPATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()


def test_concurrent_threads_download_a_blob_once(blobs: BlobServer, tmp_path: Path) -> None:
    """Of eight threads one downloads; the others wait, hear how far it is, and find the blob."""
    hold = threading.Event()
    model = model_of(blobs.put("/e", CONTENT, Answer(send=100_000, hold=hold)))
    waiting = threading.Event()
    events: list[PullProgress] = []

    def hear(event: PullProgress) -> None:
        events.append(event)
        if event.status == "waiting" and event.completed >= 100_000:
            waiting.set()

    with ThreadPoolExecutor(8) as pool:
        pulls = [pool.submit(Store(tmp_path, patience=IMPATIENT).pull, model, hear) for _ in range(8)]
        assert waiting.wait(WAIT_S)
        hold.set()
        for pull in pulls:
            pull.result(WAIT_S)
    assert 1 == len(blobs.asked)
    assert 8 == [event.status for event in events].count("done")
    assert {len(CONTENT)} == {event.total for event in events if event.status == "waiting" and event.completed}


def test_waiting_threads_share_the_failure(blobs: BlobServer, tmp_path: Path) -> None:
    """When the one download fails, those who waited get its error and do not try one after the other."""
    hold = threading.Event()
    model = model_of(blobs.put("/e", OTHER, then=Answer(send=100_000, hold=hold)))
    waiting = threading.Barrier(4)
    heard: set[int] = set()

    def hear(event: PullProgress) -> None:
        if event.status == "waiting" and threading.get_ident() not in heard:
            heard.add(threading.get_ident())
            waiting.wait(WAIT_S)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(Store(tmp_path, patience=PATIENT).pull, model)
        assert blobs.sending.wait(WAIT_S)
        pulls = [pool.submit(Store(tmp_path, patience=PATIENT).pull, model, hear) for _ in range(3)]
        waiting.wait(WAIT_S)
        hold.set()
        errors = [pull.exception(WAIT_S) for pull in [first, *pulls]]
    assert [BlobDigestError] * 4 == [type(error) for error in errors]
    assert 1 == len({str(error) for error in errors})
    assert 1 == len(blobs.asked)
    # Whoever comes later tries for himself.
    blobs.put("/e", CONTENT)
    Store(tmp_path, patience=PATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()


def test_two_processes_download_a_blob_once(blobs: BlobServer, tmp_path: Path) -> None:
    """A second process waits for the first, reports its progress, and sends no requests."""
    hold = threading.Event()
    url = blobs.put("/e", CONTENT, Answer(send=100_000, hold=hold))
    first = start_pull(tmp_path, url)
    assert blobs.sending.wait(WAIT_S)
    second = start_pull(tmp_path, url)
    assert second.stdout is not None
    line = second.stdout.readline()
    hold.set()
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in (first, second)]
    assert [0, 0] == [first.returncode, second.returncode], outputs
    assert f"waiting 100000 {len(CONTENT)}\n" == line
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert 1 == len(blobs.asked)


def test_pull_of_a_killed_process_is_resumed_by_another(blobs: BlobServer, tmp_path: Path) -> None:
    """A process killed while it pulls leaves its bytes and its turn to one that waits already."""
    hold = threading.Event()
    url = blobs.put("/e", CONTENT, Answer(send=100_000, hold=hold))
    first = start_pull(tmp_path, url)
    assert blobs.sending.wait(WAIT_S)
    second = start_pull(tmp_path, url)
    assert second.stdout is not None
    assert "waiting 100000" in second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=WAIT_S)
    output = second.communicate(timeout=WAIT_S)[0]
    hold.set()
    assert (-signal.SIGKILL, 0) == (first.returncode, second.returncode), output
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [0, 100_000] == [asked.start for asked in blobs.asked]


def test_stalled_source_is_resumed(blobs: BlobServer, tmp_path: Path) -> None:
    """An only source that falls silent again and again, but gives something each time, is not given up."""
    hold = threading.Event()
    pauses = [Answer(send=len(CONTENT) // 8, hold=hold)] * 7
    Store(tmp_path, patience=Patience(read_s=0.05, rounds=2, backoff_s=0.01)).pull(
        model_of(blobs.put("/e", CONTENT, *pauses))
    )
    hold.set()
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert 8 == len(blobs.asked)


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "between"])
def test_stopped_pull_keeps_its_partial_file(
    blobs: BlobServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_silent: bool
) -> None:
    """Stopping wakes a pull that waits for a silent server or between two tries; the next one goes on from there."""
    first = Answer(send=100_000, hold=threading.Event() if is_silent else None)
    model = model_of(blobs.put("/e", CONTENT, first, then=Answer(503, {"Retry-After": "100"})))
    stop = threading.Event()
    # With these, only the stop can end it before the test gives up.
    patience = Patience(connect_s=WAIT_S * 10, read_s=WAIT_S * 10, rounds=9, backoff_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(Store(tmp_path, patience=patience).pull, model, stop=stop)
        partial = partial_path(tmp_path)
        while not (partial.exists() and partial.stat().st_size == 100_000 and (is_silent or "503" in caplog.text)):
            assert not pull.done()
            time.sleep(0.01)
        stop.set()
        assert ShuttingDownError is type(pull.exception(WAIT_S))
    blobs.put("/e", CONTENT)
    blobs.asked.clear()
    Store(tmp_path, patience=IMPATIENT).pull(model)
    assert [100_000] == [asked.start for asked in blobs.asked]


def test_waiting_pull_can_be_stopped(blobs: BlobServer, tmp_path: Path) -> None:
    """Stopping ends the wait for another process's download, which continues."""
    hold = threading.Event()
    model = model_of(blobs.put("/e", CONTENT, Answer(send=100_000, hold=hold)))
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Store(tmp_path, patience=IMPATIENT).pull, model)
        assert blobs.sending.wait(WAIT_S)
        second = pool.submit(Store(tmp_path, patience=IMPATIENT).pull, model, lambda _: stop.set(), stop=stop)
        assert ShuttingDownError is type(second.exception(WAIT_S))
        hold.set()
        first.result(WAIT_S)
    assert CONTENT == blob_path(tmp_path).read_bytes()


def test_attachments_are_stored_beside_their_blob(blobs: BlobServer, tmp_path: Path) -> None:
    """A blob with attachments is a folder of files under their own names; its path is the graph's."""
    model = with_data(blobs)
    store = Store(tmp_path, patience=IMPATIENT)
    store.pull(model)
    folder = blob_path(tmp_path, b"graph")
    assert {"graph.onnx": b"graph", "graph.onnx.data": CONTENT} == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {"encoder": folder / "graph.onnx"} == store.paths(model)
    assert len(b"graph") + len(CONTENT) == store.size(model)


def test_blob_folder_is_published_only_when_complete(blobs: BlobServer, tmp_path: Path) -> None:
    """While an attachment is missing there is no folder, and finished files are not requested again."""
    model = with_data(blobs)
    blobs.files["/m/graph.onnx.data"].then = Answer(send=100_000)
    blobs.files["/m/graph.onnx.data"].script = [Answer(send=100_000), Answer(404)]
    store = Store(tmp_path, patience=IMPATIENT)
    with pytest.raises(PullError):
        store.pull(model)
    assert [] == blobs_in(tmp_path)
    assert not store.is_present(model)
    blobs.files["/m/graph.onnx.data"].then = Answer()
    blobs.asked.clear()
    store.pull(model)
    assert [("/m/graph.onnx.data", 100_000)] == [(asked.path, asked.start) for asked in blobs.asked]
    assert CONTENT == (blob_path(tmp_path, b"graph") / "graph.onnx.data").read_bytes()


@pytest.mark.parametrize("was_folder", [True, False], ids=["half a folder", "a file"])
def test_incomplete_blob_of_osam_is_completed(
    blobs: BlobServer,
    tmp_path: Path,
    *,
    was_folder: bool,
) -> None:
    """A folder that lacks its attachment, or the blob as a plain file, becomes the whole folder."""
    model, place = with_data(blobs), blob_path(tmp_path, b"graph")
    place.parent.mkdir(parents=True)
    if was_folder:
        place.mkdir()
        (place / "graph.onnx").write_bytes(b"graph")
        (place / ".graph.onnx.data.x.gdown").mkdir()
    else:
        place.write_bytes(b"graph")
    store = Store(tmp_path, patience=IMPATIENT)
    assert not store.is_present(model)
    store.pull(model)
    assert store.is_present(model)
    assert CONTENT == (place / "graph.onnx.data").read_bytes()
    assert was_folder == ("/m/graph.onnx" not in [asked.path for asked in blobs.asked])


@pytest.mark.parametrize("length", ["9" * 15, "9" * 30, "9" * 5000, "-1", "1e3"])
def test_mirror_with_a_wrong_length_is_skipped(blobs: BlobServer, tmp_path: Path, length: str) -> None:
    """A length that is absurd or not a number makes the pull continue with the next source."""
    liar = Answer(headers={"Content-Length": length}, length=False)
    blobs.put(f"/{digest(CONTENT)}", CONTENT, then=liar)
    Store(tmp_path, endpoints=[blobs.url, "direct"], patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert CONTENT == blob_path(tmp_path).read_bytes()


def test_disk_too_small_for_the_only_source_is_an_error(blobs: BlobServer, tmp_path: Path) -> None:
    """If every source claims a size larger than the disk, the error is insufficient storage."""
    url = blobs.put("/e", CONTENT, then=Answer(headers={"Content-Length": "9" * 15}, length=False))
    with pytest.raises(InsufficientStorageError, match="bytes free"):
        Store(tmp_path, patience=IMPATIENT).pull(model_of(url))
