"""A run that is killed, or whose disk is full, and is started again ends as one that was not."""

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from data_sets import ALL_FORMATS, PlainAnswers, run_batch, tree, write_boxes, write_photos
from serving import clean_environment

from osamd import __version__
from osamd.dataset.formats import make_format
from osamd.dataset.plan import VERSION
from osamd.dataset.planning import Prompts
from osamd.dataset.run import open_manifest, run
from osamd.dataset.shards import Shards
from osamd.dataset.work import InProcess, Part
from osamd.errors import InvalidRequestError, UnreachableError

TESTS = Path(__file__).resolve().parents[1]


def test_every_interruption_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL, a write cut off before SIGKILL, and a full disk, at file operations throughout a run in all formats.

    ``make proof`` tries every operation; here it is every twelfth.
    """
    ended = subprocess.run(
        [sys.executable, str(TESTS / "kill_points.py"), str(tmp_path), "all", ",".join(ALL_FORMATS), "12"],
        env=clean_environment({"PYTHONPATH": str(TESTS)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    assert int(ended.stdout) > 10


def test_photos_are_asked_about_once_whatever_stops_a_run(tmp_path: Path) -> None:
    """A server that goes away stops the run, and the next one begins at the photo it stopped at."""
    photos, boxes, log = write_photos(tmp_path / "photos", 6), tmp_path / "boxes.json", tmp_path / "log"
    prompts = Prompts(boxes_from=str(write_boxes(boxes, photos)))

    class Vanishing(PlainAnswers):
        def __call__(self, data: bytes, prompts: object) -> list[object]:  # type: ignore[override]
            if log.exists() and len(log.read_text().splitlines()) >= 3:
                raise UnreachableError("gone")
            return super().__call__(data, prompts)  # type: ignore[arg-type,return-value]

    with pytest.raises(UnreachableError):
        run_batch(photos, tmp_path / "out", prompts=prompts, answers=Vanishing(log).opened, at_once=1)
    run_batch(photos, tmp_path / "out", prompts=prompts, answers=PlainAnswers(log).opened, at_once=1)
    run_batch(photos, tmp_path / "whole", prompts=prompts)

    assert 6 == len(log.read_text().splitlines())
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


def test_a_stopped_run_finishes_the_photos_in_hand(tmp_path: Path) -> None:
    """What was begun is written, nothing else is begun, and no output claims to be whole."""
    photos = write_photos(tmp_path / "photos", 6)
    prompts, stop = Prompts(everything=True), threading.Event()

    class Stopping(PlainAnswers):
        def __call__(self, data: bytes, prompts: object) -> list[object]:  # type: ignore[override]
            stop.set()
            return super().__call__(data, prompts)  # type: ignore[arg-type,return-value]

    log = tmp_path / "log"
    first = run_batch(photos, tmp_path / "out", prompts=prompts, answers=Stopping(log).opened, stop=stop, at_once=1)
    assert (False, 1) == (first.is_finished, len(log.read_text().splitlines()))
    assert not (tmp_path / "out" / "annotations.coco.json").exists()

    second = run_batch(photos, tmp_path / "out", prompts=prompts, answers=PlainAnswers(log).opened, at_once=1)
    assert (True, 1, 6) == (second.is_finished, second.failed, len(log.read_text().splitlines()))


def test_parts_on_several_machines_give_the_same_bytes(tmp_path: Path) -> None:
    """Whoever finishes the last shard writes the files that need all of them."""
    photos = write_photos(tmp_path / "photos", 7)
    prompts = Prompts(everything=True)
    outcomes = [run_batch(photos, tmp_path / "out", prompts=prompts, part=Part(index, 3)) for index in (2, 0, 1)]
    run_batch(photos, tmp_path / "whole", prompts=prompts)

    assert [False, False, True] == [outcome.is_finished for outcome in outcomes]
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


def test_a_shard_that_another_process_has_is_left_to_it(tmp_path: Path) -> None:
    """Two runs of one folder share the shards; neither waits, and neither writes what the other does."""
    photos = write_photos(tmp_path / "photos", 5)
    prompts, out = Prompts(everything=True), tmp_path / "out"
    run_batch(photos, out, prompts=prompts, part=Part(0, 3))
    other = Shards(out / ".osamd" / "shards").open(1, first=2, count=2)
    assert other is not None

    outcome = run_batch(photos, out, prompts=prompts)
    assert ([1], 4, False) == (outcome.busy, outcome.done, outcome.is_finished)

    other.close()
    assert run_batch(photos, out, prompts=prompts).is_finished


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process needs none, and several have their parts."""

    def no_locks(file: int, operation: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOLCK, "No locks available")

    photos = write_photos(tmp_path / "photos", 5)
    prompts = Prompts(everything=True)
    run_batch(photos, tmp_path / "whole", prompts=prompts)
    monkeypatch.setattr("fcntl.flock", no_locks)
    outcomes = [run_batch(photos, tmp_path / "out", prompts=prompts, part=Part(index, 2)) for index in (0, 1)]
    assert [False, True] == [outcome.is_finished for outcome in outcomes]
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


def test_formats_are_added_without_asking_again(tmp_path: Path) -> None:
    """They are made of the shards."""
    photos = write_photos(tmp_path / "photos")
    prompts, log = Prompts(everything=True), tmp_path / "log"
    run_batch(photos, tmp_path / "out", prompts=prompts, formats=["coco"], answers=PlainAnswers(log).opened)
    asked = log.read_text()
    run_batch(photos, tmp_path / "out", prompts=prompts, answers=PlainAnswers(log).opened)
    run_batch(photos, tmp_path / "whole", prompts=prompts)

    assert asked == log.read_text()
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")


@pytest.mark.parametrize("change", ["photos", "prompts", "shards"])
def test_another_run_is_not_mixed_into_a_folder(change: str, tmp_path: Path) -> None:
    """The message says what changed; nothing is written."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"
    run_batch(photos, out, prompts=Prompts(everything=True), formats=["coco"])
    before = tree(out)
    if change == "photos":
        (photos / "photo0.png").unlink()
    prompts = Prompts(texts=("cat",)) if change == "prompts" else Prompts(everything=True)
    expected = {"photos": "number of images", "prompts": "the kind of prompt", "shards": "--shard-size"}[change]
    with pytest.raises(InvalidRequestError, match=f"holds another run: .*{expected}"):
        run_batch(photos, out, prompts=prompts, shard_size=3 if change == "shards" else 2)
    assert before == tree(out)


def change_header(out: Path, **changes: object) -> None:
    """As a run of another osamd would have written it."""
    manifest = out / ".osamd" / "manifest.jsonl"
    line, _, photos = manifest.read_text().partition("\n")
    manifest.write_text(json.dumps(json.loads(line) | changes) + "\n" + photos)


def test_a_run_of_another_version_is_not_continued(tmp_path: Path) -> None:
    """Nor one of another version of the format; but formats can be added to photos that are all done."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"
    prompts = Prompts(everything=True)
    run_batch(photos, out, prompts=prompts, formats=["coco"], part=Part(0, 2))
    change_header(out, osamd="0.0.1")
    before = tree(out)
    with pytest.raises(InvalidRequestError, match=r"holds a run of osamd 0\.0\.1, and this is osamd .*another --out"):
        open_manifest(out, None)
    assert before == tree(out)

    change_header(out, osamd=__version__)
    assert run_batch(photos, out, prompts=prompts, formats=["coco"]).is_finished
    change_header(out, osamd="0.0.1")
    manifest = open_manifest(out, None)
    formats = {"labelme": make_format("labelme", out, manifest.header)}
    workers = InProcess(PlainAnswers().opened, at_once=1)
    assert run(manifest, out, formats=formats, workers=workers, stop=threading.Event()).is_finished
    assert (out / "labelme" / "photo0.json").is_file()

    change_header(out, version=VERSION + 1)
    with pytest.raises(InvalidRequestError, match="is not a manifest of this version of osamd"):
        open_manifest(out, None)
