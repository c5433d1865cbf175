import logging
from pathlib import Path

import pytest
from blob_server import Answer, BlobServer, serve_blobs
from pulling import CONTENT, IMPATIENT, OTHER, PATIENT, blob_path, blobs_in, digest, model_of, partial_path

from osamd.errors import (
    BlobDigestError,
    PullError,
)
from osamd.events import PullProgress
from osamd.library.downloads import Download
from osamd.library.store import Store


@pytest.mark.parametrize("tenth", range(10))
def test_interrupted_download_is_resumed(blobs: BlobServer, tmp_path: Path, tenth: int) -> None:
    """After a cut at any tenth nothing has the final name, and the next pull asks only for the rest."""
    cut = len(CONTENT) * tenth // 10
    model = model_of(blobs.put("/e", CONTENT, Answer(send=cut), then=Answer(503)))
    store = Store(tmp_path, patience=IMPATIENT)
    with pytest.raises(PullError):
        store.pull(model)
    assert [] == blobs_in(tmp_path)
    blobs.put("/e", CONTENT)
    blobs.asked.clear()
    store.pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [cut] == [asked.start for asked in blobs.asked]
    assert ['"one"' if cut else None] == [asked.headers.get("if-range") for asked in blobs.asked]


def test_one_pull_survives_many_interruptions(blobs: BlobServer, tmp_path: Path) -> None:
    """Each cut that gained something is followed by a request for the rest, whatever the number of rounds."""
    tenth = len(CONTENT) // 10
    model = model_of(blobs.put("/e", CONTENT, *[Answer(send=tenth)] * 9))
    Store(tmp_path, patience=IMPATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [tenth * number for number in range(10)] == [asked.start for asked in blobs.asked]


def test_server_without_range_support_sends_the_whole_file(blobs: BlobServer, tmp_path: Path) -> None:
    """A 200 to a request for the rest begins at the beginning, and is taken as that."""
    model = model_of(blobs.put("/e", CONTENT, Answer(send=100_000), then=Answer(ranges=False)))
    Store(tmp_path, patience=IMPATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [0, 100_000] == [asked.start for asked in blobs.asked]


def test_wrong_range_falls_back_to_the_whole_file(
    blobs: BlobServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A 206 that begins elsewhere than asked is not glued to what is here."""
    model = model_of(blobs.put("/e", CONTENT, Answer(send=100_000), then=Answer(part_at=50_000)))
    Store(tmp_path, patience=PATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [0, 100_000, 0] == [asked.start for asked in blobs.asked]
    # Seen from the answer's head, before the rest was downloaded for nothing.
    assert "a different range" in caplog.text
    assert "the content is not" not in caplog.text


@pytest.mark.parametrize("if_range", [True, False], ids=["200", "206"])
def test_changed_file_is_downloaded_from_the_start(
    blobs: BlobServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    if_range: bool,
) -> None:
    """What came with another ETag is dropped, also when the server does not know If-Range."""
    model = model_of(blobs.put("/e", CONTENT, Answer(body=OTHER, send=100_000, etag='"old"')))
    blobs.files["/e"].then = Answer(if_range=if_range)
    Store(tmp_path, patience=PATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert '"old"' == blobs.asked[1].headers["if-range"]
    # Without If-Range it is seen from the answer's head, before the rest was downloaded for nothing.
    assert if_range == ("the file has changed" not in caplog.text)
    assert "the content is not" not in caplog.text


def test_a_weak_etag_is_not_sent_but_compared(blobs: BlobServer, tmp_path: Path) -> None:
    """If-Range may not carry a weak ETag; a changed one still shows in the answer."""
    model = model_of(blobs.put("/e", CONTENT, Answer(body=OTHER, send=100_000, etag='W/"old"'), etag='W/"new"'))
    Store(tmp_path, patience=PATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [None, None, None] == [asked.headers.get("if-range") for asked in blobs.asked]


def test_corrupt_partial_file_is_detected_and_replaced(blobs: BlobServer, tmp_path: Path) -> None:
    """The digest covers the resumed part as well; on a mismatch, the whole file is requested again."""
    model = model_of(blobs.put("/e", CONTENT, Answer(body=OTHER, send=100_000, etag=""), etag=""))
    Store(tmp_path, patience=PATIENT).pull(model)
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [0, 100_000, 0] == [asked.start for asked in blobs.asked]


@pytest.mark.parametrize("left", [CONTENT + b"more", OTHER], ids=["longer", "other"])
def test_unsatisfiable_range_restarts_the_download(blobs: BlobServer, tmp_path: Path, left: bytes) -> None:
    """When 416 says that more is here than there is, what is here is dropped."""
    partial_path(tmp_path).parent.mkdir(parents=True)
    partial_path(tmp_path).write_bytes(left)
    Store(tmp_path, patience=PATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [len(left), 0] == [asked.start for asked in blobs.asked]


def test_a_complete_partial_needs_no_request(blobs: BlobServer, tmp_path: Path) -> None:
    """A process killed between the last byte and the rename costs the next one nothing but reading."""
    partial_path(tmp_path).parent.mkdir(parents=True)
    partial_path(tmp_path).write_bytes(CONTENT)
    Store(tmp_path, patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [] == blobs.asked


def test_response_without_a_length_is_accepted(blobs: BlobServer, tmp_path: Path) -> None:
    """An answer that ends with its connection is verified like any other; the total is unknown until it has ended."""
    events: list[PullProgress] = []
    Store(tmp_path, patience=IMPATIENT).pull(
        model_of(blobs.put("/e", CONTENT, then=Answer(length=False))), events.append
    )
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [None, len(CONTENT)] == [events[0].total, events[-1].total]


def test_undetected_truncation_is_retried(blobs: BlobServer, tmp_path: Path) -> None:
    """Without a length, truncation looks like the end; the digest detects it, and there is one retry."""
    cut = Answer(length=False, send=100_000)
    Store(tmp_path / "a", patience=PATIENT).pull(model_of(blobs.put("/e", CONTENT, cut, then=Answer(length=False))))
    assert CONTENT == blob_path(tmp_path / "a").read_bytes()
    blobs.asked.clear()
    with pytest.raises(BlobDigestError):
        Store(tmp_path / "b", patience=PATIENT).pull(model_of(blobs.put("/f", CONTENT, then=cut)))
    assert 2 == len(blobs.asked)


def test_known_size_detects_truncation_without_a_length(blobs: BlobServer, tmp_path: Path) -> None:
    """Where the catalogue gives the size, an answer without a length is resumed like one with it."""
    url = blobs.put("/e", CONTENT, Answer(length=False, send=100_000))
    Store(tmp_path, patience=IMPATIENT).pull(model_of(url, nbytes=len(CONTENT)))
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [0, 100_000] == [asked.start for asked in blobs.asked]


@pytest.mark.parametrize("wrong", [OTHER, CONTENT[:-1], CONTENT + b"x", b"<html>sign in</html>"])
def test_wrong_content_is_discarded_and_not_retried(blobs: BlobServer, tmp_path: Path, wrong: bytes) -> None:
    """A complete response with the wrong digest leaves nothing behind and is not requested again."""
    with pytest.raises(BlobDigestError, match=digest(CONTENT)):
        Store(tmp_path, patience=PATIENT).pull(model_of(blobs.put("/e", wrong)))
    assert [] == blobs_in(tmp_path)
    assert b"" == partial_path(tmp_path).read_bytes()
    assert 1 == len(blobs.asked)


def test_wrong_length_is_rejected_before_the_content(blobs: BlobServer, tmp_path: Path) -> None:
    """Where the catalogue gives the size, another one is refused, and what was here before is kept."""
    partial_path(tmp_path).parent.mkdir(parents=True)
    partial_path(tmp_path).write_bytes(CONTENT[:1000])
    url = blobs.put("/e", b"<html>", then=Answer(ranges=False))
    with pytest.raises(BlobDigestError, match=f"6 bytes; expected {len(CONTENT)}"):
        Store(tmp_path, patience=PATIENT).pull(model_of(url, nbytes=len(CONTENT)))
    assert CONTENT[:1000] == partial_path(tmp_path).read_bytes()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 206, 204])
def test_permanent_http_errors_are_not_retried(blobs: BlobServer, tmp_path: Path, status: int) -> None:
    """An answer that will not change is taken as the answer."""
    with pytest.raises(PullError, match=f"HTTP status {status}"):
        Store(tmp_path, patience=PATIENT).pull(model_of(blobs.put("/e", CONTENT, then=Answer(status))))
    assert 1 == len(blobs.asked)
    assert [] == blobs_in(tmp_path)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_transient_http_errors_are_retried(blobs: BlobServer, tmp_path: Path, status: int) -> None:
    """Failures of the moment are tried again, with longer and longer pauses, but not for ever."""
    store = Store(tmp_path, patience=PATIENT)
    with pytest.raises(PullError, match=f"HTTP status {status}"):
        store.pull(model_of(blobs.put("/e", CONTENT, then=Answer(status))))
    assert PATIENT.rounds == len(blobs.asked)
    store.pull(model_of(blobs.put("/e", CONTENT, Answer(status), Answer(status), Answer(status))))
    assert CONTENT == blob_path(tmp_path).read_bytes()


def test_backoff_doubles_and_follows_retry_after(
    blobs: BlobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round's pause is twice the one before, and at least what Retry-After asks for."""
    pauses: list[float] = []
    monkeypatch.setattr(Download, "_pause", lambda _, seconds: pauses.append(seconds))
    url = blobs.put("/e", CONTENT, Answer(503), Answer(429, {"Retry-After": "7"}), then=Answer(503))
    with pytest.raises(PullError):
        Store(tmp_path, patience=PATIENT).pull(model_of(url))
    assert [0.01, 7.0, 0.04] == pauses


@pytest.mark.parametrize("asked", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_long_retry_after_is_passed_to_the_caller(blobs: BlobServer, tmp_path: Path, asked: str) -> None:
    """Nobody waits for hours inside a pull: the error says when to come again."""
    url = blobs.put("/e", CONTENT, then=Answer(429, {"Retry-After": asked}))
    with pytest.raises(PullError) as caught:
        Store(tmp_path, patience=PATIENT).pull(model_of(url))
    assert caught.value.retry_after_s is not None
    assert 86400 <= caught.value.retry_after_s
    assert 1 == len(blobs.asked)


@pytest.mark.usefixtures("blobs")
def test_refused_connection_is_retried(tmp_path: Path) -> None:
    """A refused connection is an osamd error, after all rounds."""
    with serve_blobs() as closed:
        url = closed.put("/e", CONTENT)
    with pytest.raises(PullError, match="refused") as caught:
        Store(tmp_path, patience=PATIENT).pull(model_of(url))
    assert (503, "pull_failed") == (caught.value.status, caught.value.code)


def test_redirects_are_followed(blobs: BlobServer, tmp_path: Path) -> None:
    """A release's URL leads to where the file really is, also when it is resumed."""
    blobs.put("/real", CONTENT, Answer(send=100_000))
    url = blobs.put("/e", b"", then=Answer(302, {"Location": f"{blobs.url}/real"}))
    Store(tmp_path, patience=IMPATIENT).pull(model_of(url))
    assert CONTENT == blob_path(tmp_path).read_bytes()
    assert [("/e", 0), ("/real", 0), ("/e", 100_000), ("/real", 100_000)] == [(a.path, a.start) for a in blobs.asked]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/e", "/e"])
def test_redirects_are_limited_in_number_and_scheme(blobs: BlobServer, tmp_path: Path, target: str) -> None:
    """A redirect to a file, to another protocol or to itself is a refusal."""
    url = blobs.put("/e", b"", then=Answer(302, {"Location": target}))
    with pytest.raises(PullError):
        Store(tmp_path, patience=PATIENT).pull(model_of(url))
    assert 11 >= len(blobs.asked)


def test_secrets_in_a_url_are_not_shown(blobs: BlobServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A password or a signed query is in no error, no log line and no file."""
    host = blobs.url.removeprefix("http://")
    blobs.put("/e?sig=hush", CONTENT, Answer(send=100_000), then=Answer(404))
    with caplog.at_level(logging.INFO, "osamd"), pytest.raises(PullError) as caught:
        Store(tmp_path, patience=IMPATIENT).pull(model_of(f"http://me:hush@{host}/e?sig=hush"))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "127.0.0.1" in str(caught.value)
    assert "127.0.0.1" in caplog.text
    assert "hush" not in str(caught.value) + caplog.text
    assert b"hush" not in kept
