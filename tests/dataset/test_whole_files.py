"""What is on disk when a file has its name, or a shard its marker; and names as long as a file system takes."""

import os
from pathlib import Path
from typing import Any

import pytest
from data_sets import ALL_FORMATS, run_batch, tree, write_photo, write_photos

from osamd.dataset import exports
from osamd.dataset.formats import check_stems, open_formats
from osamd.dataset.plan import Header, Item
from osamd.dataset.planning import Prompts
from osamd.dataset.urls import UrlPath
from osamd.dataset.whole_files import link, sync_files, write_whole
from osamd.errors import InvalidRequestError

LONGEST = 255


class Disk:
    """What a power cut would leave.

    Attributes:
        lost: files with their name whose content is not on disk.
        markers: of each marker in the order they were made, what was not on disk then.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost: set[str] = set()
        self.markers: dict[str, set[str]] = {}
        self._synced: set[int] = set()
        fsync, replace = os.fsync, Path.replace

        def noted_fsync(file: int) -> None:
            fsync(file)
            # The content, so that what was still in a buffer does not count.
            if os.fstat(file).st_size:
                self._synced.add(os.fstat(file).st_ino)

        def noted_replace(path: Path, target: Path) -> Path:
            if target.parent.name == "written":
                self.markers[target.name] = set(self.lost)
            elif path.lstat().st_ino not in self._synced:
                self.lost.add(str(target))
            # The next file may get its number.
            self._synced.discard(path.lstat().st_ino)
            return replace(path, target)

        def noted_sync_files(folder: Any) -> None:
            sync_files(folder)
            self.lost.clear()

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "replace", noted_replace)
        monkeypatch.setattr(exports, "sync_files", noted_sync_files)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut it is absent or whole; only files that a marker stands for may be synced with it."""
    disk = Disk(monkeypatch)
    write_whole(tmp_path / "manifest", b"whole")
    assert set() == disk.lost
    write_whole(tmp_path / "label", b"whole", is_durable=False)
    assert {str(tmp_path / "label")} == disk.lost


def test_a_marker_is_made_once_what_it_stands_for_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels, masks, thumbnails and links of a shard; and nothing is left to be synced when the run ends."""
    photos = write_photos(tmp_path / "photos")
    disk = Disk(monkeypatch)
    run_batch(photos, tmp_path / "out", prompts=Prompts(everything=True))
    assert {f"{shard:05d}.{name}" for shard in range(3) for name in ALL_FORMATS} == set(disk.markers)
    assert not any(disk.markers.values())
    assert set() == disk.lost


def test_syncing_says_when_it_fails(tmp_path: Path) -> None:
    """And what it was to sync."""
    sync_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        sync_files(tmp_path / "missing")


@pytest.mark.parametrize("letter", ["a", "é"])
def test_the_longest_names_can_be_written(letter: str, tmp_path: Path) -> None:
    """Files and links, two of them in one folder; nothing is left beside them."""
    most = (LONGEST - len("0.txt")) // len(letter.encode())
    names = [f"{letter * most}{number}.txt" for number in range(2)]
    for name in names:
        write_whole(tmp_path / name, name.encode())
        link(tmp_path / "links" / name, f"../{name}")
    assert sorted([*names, "links", *(f"links/{name}" for name in names)]) == sorted(tree(tmp_path))
    assert [name.encode() for name in names] == [(tmp_path / "links" / name).read_bytes() for name in names]


def test_a_photo_with_the_longest_name_is_written_in_every_format(tmp_path: Path) -> None:
    """If the names that are made of it fit."""
    stem = "a" * (LONGEST - len("_999999.png"))
    photo = write_photo(tmp_path / "photo.png").rename(tmp_path / f"{stem}.{'b' * 10}")
    assert run_batch([str(photo)], tmp_path / "out", prompts=Prompts(everything=True)).is_finished
    assert [f"{stem}_0.png"] == [path.name for path in (tmp_path / "out" / "masks").glob("*.png")]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("a" * 251 + ".jpg", ["labelme", "png"]),
        ("a" * 252, ["labelme", "png", "yolo"]),
        ("a" * 245 + ".jpg", ["png"]),
        ("é" * 123 + ".jpg", ["png"]),
        ("\\udce9" * 43 + "/a.jpg", ["labelme", "png", "yolo"]),
        ("a.j\\udce9" + "x" * 250, ["yolo"]),
    ],
)
def test_a_name_that_a_format_would_make_too_long_is_refused(name: str, refused: list[str]) -> None:
    """Before the run, as all of it would be in vain; other formats take it, and so does a bucket."""
    item = Item(0, name, "/photos/a.jpg", 1)
    check_stems([item], set(ALL_FORMATS) - set(refused))
    for one in refused:
        with pytest.raises(InvalidRequestError, match=f"too long for --format {one}, .*: rename it"):
            check_stems([item], ["coco", one])
    header = Header("none", "", "everything", (), (), 1, 1, "")
    open_formats(refused, UrlPath("memory://bucket/out"), header, [item])
