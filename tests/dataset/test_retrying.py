"""Photos that failed for a reason that passes are tried again, and the run then ends as if they never had failed."""

import errno
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from data_sets import PlainAnswers, run_batch, tree, write_boxes, write_photo, write_photos

from osamd.dataset.answers import RemoteAnswers, RowMaker
from osamd.dataset.exports import Exports
from osamd.dataset.failures_in_a_row import MOST
from osamd.dataset.formats import make_format
from osamd.dataset.manifest import Manifest
from osamd.dataset.plan import Category, Header, Item, Target
from osamd.dataset.planning import Prompts, make_plan
from osamd.dataset.retrying import forget_failed
from osamd.dataset.rows import Row
from osamd.dataset.run import open_manifest, run
from osamd.dataset.shards import Shards
from osamd.dataset.urls import UrlPath
from osamd.dataset.work import InProcess, Part
from osamd.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    DeadlineExceededError,
    InferenceError,
    InvalidPromptError,
    InvalidRequestError,
    OsamdError,
    OutOfMemoryError,
    StorageError,
    UnreachableError,
)
from osamd.pixels.images import decode_image

HEADER = Header("none", "", "everything", (), (Category(1, "object"),), 10, 1, "")


class Failing(PlainAnswers):
    """Fails at the photos of some shades' numbers, as they come."""

    def __init__(self, numbers: set[int], error: OsamdError, log: Path | None = None) -> None:
        super().__init__(log)
        self._numbers, self._error = numbers, error
        self._count = -1

    def __call__(self, data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The objects, or the error."""
        with self._lock:
            self._count += 1
            number = self._count
        if number in self._numbers:
            raise self._error
        return super().__call__(data, prompts)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos, and one that is broken and stays so."""
    return write_photos(tmp_path / "photos", 6)


@pytest.mark.parametrize("numbers", [{0}, {3}, {1, 2, 5}])
def test_failed_photos_are_done_as_if_they_never_had_failed(numbers: set[int], photos: Path, tmp_path: Path) -> None:
    """In every format, and with no other shards done again."""
    prompts = Prompts(boxes_from=str(write_boxes(tmp_path / "boxes.json", photos)))
    out, log = tmp_path / "out", tmp_path / "log"
    answers = Failing(numbers, InferenceError("the driver was lost"))
    first = run_batch(photos, out, prompts=prompts, answers=answers.opened, at_once=1)
    assert len(numbers) + 1 == first.failed

    assert len(numbers) + 1 == forget_failed(out, Manifest(out / ".osamd" / "manifest.jsonl"))
    second = run_batch(photos, out, prompts=prompts, answers=PlainAnswers(log).opened, at_once=1)
    assert 1 == second.failed
    asked = len(log.read_text().splitlines())
    assert len(numbers) <= asked < 6

    run_batch(photos, tmp_path / "whole", prompts=prompts)
    assert tree(tmp_path / "whole") == tree(out)


def test_a_run_that_is_not_finished_forgets_its_failures_too(photos: Path, tmp_path: Path) -> None:
    """A journal is cut before the first photo that failed."""
    prompts, out, stop = Prompts(everything=True), tmp_path / "out", threading.Event()

    class FailsThenStops(PlainAnswers):
        def __call__(self, data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Any]:  # noqa: ARG002
            stop.set()
            raise OutOfMemoryError("another process has it")

    run_batch(photos, out, prompts=prompts, answers=FailsThenStops().opened, stop=stop, at_once=1)
    manifest = Manifest(out / ".osamd" / "manifest.jsonl")
    assert (2, 0) == (forget_failed(out, manifest), forget_failed(out, manifest))

    run_batch(photos, out, prompts=prompts)
    run_batch(photos, tmp_path / "whole", prompts=prompts)
    assert tree(tmp_path / "whole") == tree(out)


def test_a_part_retries_its_own_shards_alone(photos: Path, tmp_path: Path) -> None:
    """Nobody would do those of a part that has ended."""
    prompts, out = Prompts(everything=True), tmp_path / "out"
    run_batch(photos, out, prompts=prompts, answers=Failing({1, 3}, InferenceError("no")).opened, at_once=1)
    manifest = Manifest(out / ".osamd" / "manifest.jsonl")
    assert [1, 1, 1] == [forget_failed(out, manifest, Part(index, 3)) for index in (0, 1, 2)]
    assert 0 == forget_failed(out, manifest)


def test_a_process_that_saw_all_shards_whole_waits_for_the_retry(photos: Path, tmp_path: Path) -> None:
    """It writes nothing of a shard that is being tried again, and leaves no empty one behind."""
    prompts, out = Prompts(everything=True), tmp_path / "out"
    run_batch(photos, out, prompts=prompts, answers=Failing({1}, InferenceError("no")).opened, at_once=1)
    manifest, shards = Manifest(out / ".osamd" / "manifest.jsonl"), Shards(out / ".osamd" / "shards")
    formats = {name: make_format(name, out, manifest.header) for name in ("coco", "labelme")}
    exports = Exports(out, manifest=manifest, shards=shards, formats=formats)
    assert 2 == forget_failed(out, manifest)
    exports.write_shard(0)
    assert not shards.is_whole(0)
    assert exports.finish() is None
    run_batch(photos, out, prompts=prompts)
    run_batch(photos, tmp_path / "whole", prompts=prompts)
    assert tree(tmp_path / "whole") == tree(out)


def test_a_shard_that_another_process_works_on_is_left_alone(photos: Path, tmp_path: Path) -> None:
    """Its journal is locked."""
    prompts, out = Prompts(everything=True), tmp_path / "out"
    plan = make_plan([str(photos)], prompts, model="none", digest="", shard_size=2)
    manifest = open_manifest(out, plan)
    journal = Shards(out / ".osamd" / "shards").open(0, first=0, count=2)
    assert journal is not None
    journal.append(Row(0, 0, 0, code="inference_failed", message="no"))
    assert 0 == forget_failed(out, manifest)
    journal.close()
    assert 1 == forget_failed(out, manifest)


def test_in_a_bucket_whole_shards_are_done_again(photos: Path) -> None:
    """Objects cannot be cut."""
    out = UrlPath(f"memory://retrying/{photos.parent.name}")
    prompts = Prompts(everything=True)
    failing = Failing({2}, InferenceError("the driver was lost"))
    assert [2, 1] == [_run_by_url(out, photos, prompts, answers) for answers in (failing, PlainAnswers())]


def _run_by_url(out: UrlPath, photos: Path, prompts: Prompts, answers: PlainAnswers) -> int:
    """Forget what failed, if anything did, and run; how many photos fail then."""
    manifest = open_manifest(out, make_plan([str(photos)], prompts, model="none", digest="", shard_size=2))
    forget_failed(out, manifest)
    formats = {name: make_format(name, out, manifest.header) for name in ("coco", "labelme", "png")}
    workers = InProcess(answers.opened, at_once=1)
    return run(manifest, out, formats=formats, workers=workers, stop=threading.Event()).failed


def test_failures_of_another_version_stay(photos: Path, tmp_path: Path) -> None:
    """Its photos would be segmented by two versions."""
    out = tmp_path / "out"
    run_batch(photos, out, prompts=Prompts(everything=True))
    path = out / ".osamd" / "manifest.jsonl"
    head, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps(json.loads(head) | {"osamd": "0.0.1"}) + "\n" + rest)
    before = tree(out)
    with pytest.raises(InvalidRequestError, match=r"a run of osamd 0\.0\.1"):
        forget_failed(out, Manifest(path))
    assert before == tree(out)


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (InferenceError("the driver was lost"), InferenceError),
        (OutOfMemoryError("another process has it"), OutOfMemoryError),
        (DeadlineExceededError("no answer in time"), DeadlineExceededError),
        (BodyTimeoutError("too slow"), UnreachableError),
        (OsamdError("a bug"), OsamdError),
        (InvalidPromptError("outside"), None),
    ],
)
def test_many_unclear_failures_in_a_row_stop_the_run(
    error: OsamdError, stops: type[OsamdError] | None, tmp_path: Path
) -> None:
    """They are the machine's or the server's; a photo's own are not counted."""
    item = Item(0, "a.png", str(write_photo(tmp_path / "a.png")), 1)
    row_of = RowMaker(HEADER, Failing(set(range(99)), error), decode_image)
    assert [error.code] * (MOST - 1) == [row_of(item).code for _ in range(MOST - 1)]
    if stops is None:
        assert error.code == row_of(item).code
    else:
        with pytest.raises(stops, match=f"{MOST} photos in a row failed, the last with: {error}"):
            row_of(item)


def test_photos_that_nobody_was_asked_about_do_not_end_the_row(tmp_path: Path) -> None:
    """Backgrounds of a data set say nothing of the machine."""
    path = str(write_photo(tmp_path / "a.png"))
    labelled, background = Item(0, "a.png", path, 1, (Target(1, box=(1, 1, 9, 9)),)), Item(1, "a.png", path, 2)
    header = replace(HEADER, ask="boxes")
    row_of = RowMaker(header, Failing(set(range(99)), InferenceError("the driver was lost")), decode_image)
    for _ in range(MOST - 1):
        assert ("inference_failed", "") == (row_of(labelled).code, row_of(background).code)
    with pytest.raises(InferenceError):
        row_of(labelled)


def test_a_photo_that_is_segmented_ends_the_row(tmp_path: Path) -> None:
    """Failures here and there are those of their photos."""
    item = Item(0, "a.png", str(write_photo(tmp_path / "a.png")), 1)
    failing = set(range(60)) - {MOST - 1, 2 * MOST - 1}
    row_of = RowMaker(HEADER, Failing(failing, InferenceError("no")), decode_image)
    codes = [row_of(item).code for _ in range(3 * MOST - 1)]
    assert ["", ""] == [code for code in codes if code != "inference_failed"]
    with pytest.raises(InferenceError):
        row_of(item)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE])
def test_a_volume_that_fails_stops_the_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photo may lie on a bad sector, but not ten in a row."""

    def fail(_: Path) -> bytes:
        raise OSError(number, "the volume fails")

    monkeypatch.setattr(Path, "read_bytes", fail)
    row_of = RowMaker(HEADER, PlainAnswers(), decode_image)
    item = Item(0, "a.png", str(tmp_path / "a.png"), 1)
    assert ["storage_failed"] * (MOST - 1) == [row_of(item).code for _ in range(MOST - 1)]
    with pytest.raises(StorageError, match="the volume fails"):
        row_of(item)


def test_photos_that_are_gone_fail_alone_and_a_folder_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    """A volume that is not mounted any more has no folders."""
    row_of = RowMaker(HEADER, PlainAnswers(), decode_image)
    here = Item(0, "a.png", str(tmp_path / "a.png"), 1)
    write_photo(tmp_path / "b.png")
    assert ["invalid_image"] * 2 * MOST == [row_of(here).code for _ in range(2 * MOST)]
    (tmp_path / "mount").mkdir()
    for folder in ("unmounted", "mount"):
        row_of = RowMaker(HEADER, PlainAnswers(), decode_image)
        away = Item(0, "a.png", str(tmp_path / folder / "a.png"), 1)
        assert ["storage_failed"] * (MOST - 1) == [row_of(away).code for _ in range(MOST - 1)]
        with pytest.raises(StorageError):
            row_of(away)


class Client:
    """Fails some times, then answers."""

    def __init__(self, error: OsamdError, times: int) -> None:
        self._error, self._times = error, times
        self.count = 0

    def segment(self, *_: Any, **__: Any) -> Any:
        """As ``Client.segment``."""
        self.count += 1
        if self.count <= self._times:
            raise self._error
        raise UnreachableError("answered")


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (DeadlineExceededError("no answer in time"), 3),
        (OsamdError("a bug"), 3),
        (BodyTimeoutError("too slow"), 3),
        (InferenceError("no"), 3),
        (BodyTooLargeError("too large"), 1),
        (InvalidPromptError("outside"), 1),
    ],
)
def test_a_server_is_asked_again_after_a_failure_that_may_pass(error: OsamdError, attempts: int) -> None:
    """Three times in all; what cannot pass is not repeated."""
    client = Client(error, 99)
    with pytest.raises(type(error)):
        RemoteAnswers(client, "none")(b"image", [{"everything": True}])  # type: ignore[arg-type]
    assert attempts == client.count

    client = Client(error, attempts - 1)
    with pytest.raises(UnreachableError, match="answered"):
        RemoteAnswers(client, "none")(b"image", [{"everything": True}])  # type: ignore[arg-type]
