"""``image_path`` below its folder: what the disk is asked for."""

import os
from pathlib import Path

import pytest

from osamd.errors import BodyTooLargeError, InvalidRequestError
from osamd.wire.image_paths import read_image_path

MOST = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image folder with ways out, and files outside."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"photo")
    (folder / "large.jpg").write_bytes(bytes(MOST + 1))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    (folder / "out").symlink_to(outside)
    (folder / "up").symlink_to("../outside")
    (folder / "file").symlink_to(outside / "secret.jpg")
    return folder


@pytest.mark.parametrize("name", ["out/secret.jpg", "up/secret.jpg", "file", "out", "up/missing.jpg", "../outside"])
def test_only_paths_below_the_root_are_accessed(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for existence: neither directly nor through a symbolic link."""
    asked: list[str] = []

    def watched(function: str) -> None:
        real = getattr(os, function)

        def watching(path: str, *args: object, **more: object) -> object:
            asked.append(os.fspath(path))
            return real(path, *args, **more)

        monkeypatch.setattr(os, function, watching)

    root = root.resolve()
    for function in ("stat", "lstat", "open", "readlink", "scandir"):
        watched(function)
    with pytest.raises(InvalidRequestError):
        read_image_path(name, root, MOST)

    assert not [path for path in asked if "outside" in path]


def test_the_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    """An absolute path may spell it either way."""
    link = tmp_path / "link"
    link.symlink_to(root)

    for name in ("photo.jpg", str(root / "photo.jpg"), str(link / "photo.jpg")):
        assert b"photo" == read_image_path(name, link, MOST)


def test_a_link_that_only_begins_like_the_root_leads_out(root: Path) -> None:
    """``/folder-too`` is not below ``/folder``."""
    beside = root.with_name(f"{root.name}-too")
    beside.mkdir()
    (beside / "secret.jpg").write_bytes(b"secret")
    (root / "beside").symlink_to(beside / "secret.jpg")

    for name in ("beside", str(beside / "secret.jpg")):
        with pytest.raises(InvalidRequestError):
            read_image_path(name, root, MOST)


def test_a_large_file_is_refused(root: Path) -> None:
    """As a body would be."""
    with pytest.raises(BodyTooLargeError, match="1,000 bytes"):
        read_image_path("large.jpg", root, MOST)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "", ".", "/"])
def test_odd_names_are_refused(root: Path, name: str) -> None:
    """A lone surrogate has no bytes, and no path has a zero."""
    with pytest.raises(InvalidRequestError):
        read_image_path(name, root, MOST)
