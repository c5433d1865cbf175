import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osamd.engine import folder_budget
from osamd.engine.embedding_files import EmbeddingFiles, KeptEmbedding
from osamd.engine.folder_budget import FolderBudget
from osamd.files import TEMPORARY
from osamd.pixels.windows import compressed
from osamd.types import Embedding, SmallPicture

DAY_S = 86_400.0
FIRST, SECOND, THIRD = (f"img_{digit * 32}" for digit in "123")


class Clock:
    """Wall time that tests set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


def kept(value: float = 0.5, *, side: int = 16, dtype: Any = np.float32) -> KeptEmbedding:
    """Two features of one value."""
    features = {"a": np.full((1, 2, side, side), value, dtype), "b": np.full((1, 1, side, side), -value, dtype)}
    return KeptEmbedding(Embedding(height=30, width=40, features=features), "model:tag", "digest")


def pictured(picture: SmallPicture) -> KeptEmbedding:
    """A feature, and a picture."""
    features = {"a": np.ones((1, 2, 4, 4), np.float32)}
    return KeptEmbedding(Embedding(height=30, width=40, features=features, picture=picture), "builtin", "digest")


def opened(folder: Path, clock: Clock | None = None, *, capacity_bytes: int = 10**6) -> EmbeddingFiles:
    """The files of a folder."""
    return EmbeddingFiles(folder, capacity_bytes=capacity_bytes, ttl_s=DAY_S, clock=clock or Clock())


def files_in(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_is_put_comes_back_in_another_process(tmp_path: Path, dtype: Any) -> None:
    """Values to half precision, types, sizes, the model and its digest, all read by another object."""
    values = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(dtype)
    embedding = Embedding(height=3, width=5, features={"x": values}, notes=("band 1 of 2 used",))
    given = KeptEmbedding(embedding, "sam2:tiny", "abc")
    opened(tmp_path).put(FIRST, given, owner="me")

    found = opened(tmp_path).get(FIRST, owner="me")

    assert found is not None
    assert (3, 5, "sam2:tiny", "abc") == (found.embedding.height, found.embedding.width, found.model, found.digest)
    assert ["x"] == list(found.embedding.features)
    assert ("band 1 of 2 used",) == found.embedding.notes
    assert dtype == found.embedding.features["x"].dtype
    np.testing.assert_array_equal(values.astype(np.float16).astype(dtype), found.embedding.features["x"])


def test_the_picture_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """The picture for a second look is stored, counted, and not halved as features are."""
    given = compressed(np.random.default_rng(1).integers(0, 256, (15, 20, 3)).astype(np.uint8))
    opened(tmp_path).put(FIRST, pictured(given), owner="me")

    found = opened(tmp_path).get(FIRST, owner="me")

    assert found is not None
    picture = found.embedding.picture
    assert picture is not None
    assert (15, 20) == (picture.rows, picture.columns)
    np.testing.assert_array_equal(given.jpeg, picture.jpeg)
    assert ["a"] == list(found.embedding.features)
    assert 2 * 4 * 4 * 4 + given.jpeg.nbytes == found.embedding.nbytes


@pytest.mark.parametrize("wrong", ["no JPEG", "another size", "numbers", "nothing"])
def test_a_picture_that_is_none_makes_a_broken_file(tmp_path: Path, wrong: str) -> None:
    """It would fail each box on the image for as long as the file is there; the image is encoded again instead."""
    good = compressed(np.zeros((15, 20, 3), np.uint8))
    picture = {
        "no JPEG": SmallPicture(np.arange(200, dtype=np.uint8), 15, 20),
        "another size": SmallPicture(good.jpeg, 15_000, 20),
        "numbers": SmallPicture(np.zeros((2, 3), np.float64), 15, 20),
        "nothing": SmallPicture(np.zeros(0, np.uint8), 15, 20),
    }[wrong]
    files = opened(tmp_path)
    files.put(FIRST, pictured(picture), owner="me")

    assert files.get(FIRST, owner="me") is None
    assert [] == files_in(tmp_path)


def test_a_file_from_before_there_were_pictures_is_read(tmp_path: Path) -> None:
    """Its handle stays valid; it has no picture."""
    opened(tmp_path).put(FIRST, kept(), owner="me")
    (file,) = files_in(tmp_path)
    with np.load(file) as archive:
        about, *features = [archive[f"arr_{index}"] for index in range(3)]
    old = {name: value for name, value in json.loads(about.tobytes()).items() if name != "picture"}
    with file.open("wb") as open_file:
        np.savez(open_file, np.frombuffer(json.dumps(old).encode(), np.uint8), *features)

    found = opened(tmp_path).get(FIRST, owner="me")

    assert found is not None
    assert found.embedding.picture is None
    assert ["a", "b"] == list(found.embedding.features)


def test_values_beyond_half_precision_keep_theirs(tmp_path: Path) -> None:
    """A value that half precision cannot hold does not become infinite."""
    files = opened(tmp_path)
    files.put(FIRST, kept(1e6), owner="me")

    found = files.get(FIRST, owner="me")

    assert found is not None
    assert 1e6 == found.embedding.features["a"].max()


def test_files_are_half_the_size_of_the_values(tmp_path: Path) -> None:
    """Half precision halves them."""
    large = kept(side=128)
    opened(tmp_path).put(FIRST, large, owner="me")
    (file,) = files_in(tmp_path)

    assert file.stat().st_size < 0.52 * large.embedding.nbytes


def test_nobody_gets_anothers(tmp_path: Path) -> None:
    """Embeddings are kept apart by owner; names of owners do not appear on the disk."""
    files = opened(tmp_path)
    files.put(FIRST, kept(), owner="alice")

    assert files.get(FIRST, owner="bob") is None
    assert not files.delete(FIRST, owner="bob")
    assert files.get(FIRST, owner="alice") is not None
    assert not [path for path in tmp_path.rglob("*") if "alice" in path.name]


def test_deleting_is_final(tmp_path: Path) -> None:
    """A deleted embedding is gone, and deleting it again says so."""
    files = opened(tmp_path)
    files.put(FIRST, kept(), owner="me")

    assert files.delete(FIRST, owner="me")
    assert not files.delete(FIRST, owner="me")
    assert files.get(FIRST, owner="me") is None
    assert [] == files_in(tmp_path)


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "img_..", "", "img_" + "A" * 32, FIRST + "\n", "/etc/x"])
def test_a_handle_that_is_none_of_ours_is_no_path(tmp_path: Path, image_id: str) -> None:
    """Callers choose what they send as a handle; nothing is read, written or deleted there."""
    files = opened(tmp_path / "inside")
    files.put(image_id, kept(), owner="me")

    assert files.get(image_id, owner="me") is None
    assert not files.delete(image_id, owner="me")
    assert [] == list(tmp_path.iterdir())


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Within the cap; what was read lately stays."""
    clock = Clock()
    opened(tmp_path / "one", clock).put(FIRST, kept(), owner="me")
    (one,) = files_in(tmp_path / "one")
    files = opened(tmp_path / "all", clock, capacity_bytes=int(2.5 * one.stat().st_size))
    for image_id in (FIRST, SECOND):
        files.put(image_id, kept(), owner="me")
        assert files.get(image_id, owner="me") is not None
        clock.now += 10
    assert files.get(FIRST, owner="me") is not None
    clock.now += 10
    files.put(THIRD, kept(), owner="other")

    assert [True, False] == [files.get(name, owner="me") is not None for name in (FIRST, SECOND)]
    assert files.get(THIRD, owner="other") is not None
    assert sum(path.stat().st_size for path in files_in(tmp_path / "all")) <= 2.5 * one.stat().st_size


def test_one_that_is_larger_than_the_cap_is_not_kept(tmp_path: Path) -> None:
    """And pushes nothing out."""
    files = opened(tmp_path, capacity_bytes=5_000)
    files.put(FIRST, kept(side=8), owner="me")
    files.put(SECOND, kept(side=64), owner="me")

    assert files.get(FIRST, owner="me") is not None
    assert files.get(SECOND, owner="me") is None


def test_what_nobody_used_for_long_is_forgotten(tmp_path: Path) -> None:
    """Reading it keeps it for another day; after that it is unknown, and deleted when something comes."""
    clock = Clock()
    files = opened(tmp_path, clock)
    files.put(FIRST, kept(), owner="me")
    clock.now += 0.9 * DAY_S
    assert files.get(FIRST, owner="me") is not None
    clock.now += 0.9 * DAY_S
    assert files.get(FIRST, owner="me") is not None
    clock.now += 1.1 * DAY_S

    assert files.get(FIRST, owner="me") is None
    files.put(SECOND, kept(), owner="me")
    assert [f"{SECOND}.npz"] == [path.name for path in files_in(tmp_path)]


def test_a_sweep_deletes_what_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos leave no trace for longer than was promised, even where nothing is written any more."""
    clock = Clock()
    files = opened(tmp_path, clock)
    files.put(FIRST, kept(), owner="me")
    clock.now += 0.9 * DAY_S
    files.put(SECOND, kept(), owner="other")
    files.sweep()
    assert 2 == len(files_in(tmp_path))
    clock.now += 0.2 * DAY_S
    # As after a restart.
    opened(tmp_path, clock).sweep()
    assert [f"{SECOND}.npz"] == [path.name for path in files_in(tmp_path)]

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(FolderBudget, "delete_expired", fail)
    files.sweep()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_broken_file_is_forgotten(tmp_path: Path, damage: str) -> None:
    """Half a file, or one with a wrong byte in its values, is never answered; it is deleted, and can be put again."""
    files = opened(tmp_path)
    files.put(FIRST, kept(), owner="me")
    (file,) = files_in(tmp_path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes({"cut": bytes(data[: len(data) // 2]), "flipped": bytes(data), "empty": b""}[damage])

    assert files.get(FIRST, owner="me") is None
    assert [] == files_in(tmp_path)
    files.put(FIRST, kept(), owner="me")
    assert files.get(FIRST, owner="me") is not None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A read-only volume, or a file in the folder's place, only means that nothing is kept."""
    (tmp_path / "taken").write_bytes(b"")
    files = opened(tmp_path / "taken" / "embeddings")
    files.put(FIRST, kept(), owner="me")

    assert files.get(FIRST, owner="me") is None
    assert not files.delete(FIRST, owner="me")
    assert [tmp_path / "taken"] == files_in(tmp_path)
    assert "" == caplog.text or "could not store" in caplog.text


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_a_file_that_cannot_be_read_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """No descriptor or no memory left says nothing against the file: it is there when times are better."""
    files = opened(tmp_path)
    files.put(FIRST, kept(), owner="me")

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", fail)
        assert files.get(FIRST, owner="me") is None

    assert files.get(FIRST, owner="me") is not None


def test_a_read_only_volume_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time of use cannot be noted, what is kept is found all the same."""
    files = opened(tmp_path)
    files.put(FIRST, kept(), owner="me")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("osamd.engine.embedding_files.os.utime", refuse)

    assert files.get(FIRST, owner="me") is not None


def test_what_killed_processes_left_behind_is_swept(tmp_path: Path) -> None:
    """A folder half written an hour ago goes with the next put; one of a minute ago may be somebody's."""
    for name, age_s in (("osamd-part-old", 3700), ("osamd-part-new", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
    opened(tmp_path).put(FIRST, kept(), owner="me")

    assert ["osamd-part-new"] == [path.name for path in tmp_path.glob("osamd-part-*")]


def test_a_put_does_not_list_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that many replicas share may hold millions: of 200 writes that each push one out, few list it."""
    listings: list[object] = []
    listed = EmbeddingFiles._listed

    def counted(self: EmbeddingFiles) -> Iterator[Path]:
        listings.append(self)
        return listed(self)

    monkeypatch.setattr(EmbeddingFiles, "_listed", counted)
    clock = Clock()
    opened(tmp_path / "one", clock).put(FIRST, kept(side=2), owner="me")
    (one,) = files_in(tmp_path / "one")
    listings.clear()
    files = opened(tmp_path / "all", clock, capacity_bytes=int(100.5 * one.stat().st_size))
    for number in range(200):
        files.put(f"img_{number:032x}", kept(side=2), owner="me")
        clock.now += 1

    assert [f"img_{number:032x}.npz" for number in range(100, 200)] == [p.name for p in files_in(tmp_path / "all")]
    assert len(listings) <= 200 / (100 / 16) + 1


def test_a_put_does_not_mind_that_another_process_finishes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its temporary folder is there when the folder is listed, and gone when it is looked into."""
    gone = tmp_path / f"{TEMPORARY}of-another"
    gone.mkdir()
    scandir = os.scandir

    def racing(path: Any) -> Any:
        if path == str(gone):
            gone.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", racing)
    files = opened(tmp_path)
    files.put(FIRST, kept(), owner="me")

    assert not gone.exists()
    assert files.get(FIRST, owner="me") is not None
    assert "" == caplog.text


def test_a_sweep_before_anything_is_stored_finds_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The folder is only created by the first write, so it is no problem that it is not there."""
    opened(tmp_path / "none").sweep()

    assert "" == caplog.text


def test_several_writers_share_one_budget(tmp_path: Path) -> None:
    """Three replicas write in turns: the folder is over its limit by an eighth at most, and the newest are there."""
    clock = Clock()
    opened(tmp_path / "one", clock).put(FIRST, kept(side=2), owner="me")
    nbytes = files_in(tmp_path / "one")[0].stat().st_size
    writers = [opened(tmp_path / "all", clock, capacity_bytes=int(48.5 * nbytes)) for _ in range(3)]
    for number in range(300):
        writers[number % 3].put(f"img_{number:032x}", kept(side=2), owner="me")
        clock.now += 1
        assert len(files_in(tmp_path / "all")) <= 48 * (1 + 2 / 16) + 3

    names = {path.stem for path in files_in(tmp_path / "all")}
    assert len(names) >= 40
    assert {f"img_{number:032x}" for number in range(270, 300)} <= names


def test_files_that_cannot_be_deleted_do_not_stop_a_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's files, say: they are skipped, however few of them are remembered."""
    monkeypatch.setattr("osamd.engine.folder_budget.REMEMBERED", 2)
    clock = Clock()
    first = opened(tmp_path, clock)
    for number in range(5):
        first.put(f"img_{number:032x}", kept(side=2), owner="me")
    nbytes = files_in(tmp_path)[0].stat().st_size

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    files = opened(tmp_path, clock, capacity_bytes=3 * nbytes)
    files.put(THIRD, kept(side=2), owner="me")

    assert files.get(THIRD, owner="me") is not None


def test_a_replaced_file_is_counted_once(tmp_path: Path) -> None:
    """Writing the same image again and again pushes no other out."""
    clock = Clock()
    opened(tmp_path / "one", clock).put(FIRST, kept(), owner="me")
    files = opened(tmp_path, clock, capacity_bytes=int(2.5 * files_in(tmp_path / "one")[0].stat().st_size))
    for number in range(20):
        files.put(FIRST if number else SECOND, kept(), owner="me")
        clock.now += 1

    assert files.get(SECOND, owner="me") is not None


def test_an_expired_file_that_is_replaced_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not deleted to make room for its successor, which would count its size as freed twice."""
    # Listing the folder would correct the count.
    monkeypatch.setattr(folder_budget, "SHARE_BETWEEN_LISTINGS", 100)
    clock = Clock()
    opened(tmp_path / "one", clock).put(FIRST, kept(), owner="me")
    nbytes = files_in(tmp_path / "one")[0].stat().st_size
    files = opened(tmp_path / "both", clock, capacity_bytes=2 * nbytes)
    files.put(FIRST, kept(), owner="me")
    clock.now += 2 * DAY_S
    files.put(FIRST, kept(), owner="me")
    for image_id in (SECOND, THIRD):
        files.put(image_id, kept(), owner="me")
    assert sum(file.stat().st_size for file in files_in(tmp_path / "both")) <= 2 * nbytes


def test_noting_a_use_keeps_a_file(tmp_path: Path) -> None:
    """What was used from memory is not the next to be deleted, and nothing is noted of what is not there."""
    clock = Clock()
    opened(tmp_path / "one", clock).put(FIRST, kept(), owner="me")
    files = opened(tmp_path / "both", clock, capacity_bytes=int(2.5 * files_in(tmp_path / "one")[0].stat().st_size))
    for image_id in (FIRST, SECOND):
        files.put(image_id, kept(), owner="me")
        clock.now += 1
    files.touch(FIRST, owner="me")
    files.touch(THIRD, owner="me")
    files.touch("../else", owner="me")
    clock.now += 1
    files.put(THIRD, kept(), owner="me")
    found = [files.get(image_id, owner="me") is not None for image_id in (FIRST, SECOND, THIRD)]
    assert [True, False, True] == found
