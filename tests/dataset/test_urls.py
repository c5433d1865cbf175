"""Photos and results in a bucket: the same answers as on disk, written in one piece, and no secret told."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from commands import Osamd
from data_sets import PlainAnswers, run_batch, tree, write_boxes, write_photos
from fsspec.implementations.memory import MemoryFileSystem

from osamd.dataset.export import export
from osamd.dataset.inputs import find_images, name_of
from osamd.dataset.planning import Prompts
from osamd.dataset.urls import UrlPath, place_of, way_to
from osamd.dataset.work import Part
from osamd.errors import InvalidRequestError

FORMATS = ["coco", "yolo", "labelme", "png", "parquet", "review"]
SECRET = "AKIA-very-secret"


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """Stands for s3:// with objects that appear whole, and notes what is written."""

    protocol = "s3"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in its base
    pseudo_dirs = [""]  # noqa: RUF012 - as in its base
    put: list[str] = []  # noqa: RUF012 - of all instances
    broken: Exception | None = None

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        """Note and write."""
        self.put.append(rpath)
        super().put_file(lpath, rpath, **options)

    def cat_file(self, path: str, **options: Any) -> Any:
        """Read, or fail."""
        if Bucket.broken is not None:
            raise Bucket.broken
        return super().cat_file(path, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(str(path).replace("s3://", "memory://"))


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket in this process."""
    fsspec.register_implementation("s3", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "put", [])
    monkeypatch.setattr(Bucket, "broken", None)
    found = fsspec.filesystem("s3", use_listings_cache=False)
    yield found
    found.store.clear()


@pytest.fixture
def photos(tmp_path: Path, bucket: Bucket) -> Path:
    """On disk and, the same ones, in the bucket."""
    folder = write_photos(tmp_path / "photos")
    for file in folder.rglob("*.*"):
        bucket.pipe_file(f"s3://data/photos/{file.relative_to(folder)}", file.read_bytes())
    return folder


def fetched(bucket: Bucket, url: str, folder: Path) -> Path:
    """A copy of results on disk."""
    top = bucket._strip_protocol(url)
    for path in bucket.find(url):
        target = folder / path.removeprefix(f"{top}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bucket.store[path].getvalue())
    return folder


def test_results_in_a_bucket_are_those_on_disk(tmp_path: Path, photos: Path, bucket: Bucket) -> None:
    """In every format but links, each object written once and whole; parts share the shards by number."""
    prompts = Prompts(boxes_from=str(write_boxes(tmp_path / "boxes.json", photos)))
    run_batch(["s3://data/photos"], tmp_path / "here", prompts=prompts, formats=FORMATS)
    there: Any = UrlPath("s3://data/masks")
    outcomes = [
        run_batch(["s3://data/photos"], there, prompts=prompts, formats=FORMATS, part=Part(index, 2))
        for index in (0, 1)
    ]
    assert [False, True] == [outcome.is_finished for outcome in outcomes]
    written = [path for path in Bucket.put if not path.endswith("manifest.jsonl")]
    assert sorted(set(written)) == sorted(written)

    copy = tree(fetched(bucket, "s3://data/masks", tmp_path / "copy"))
    here = tree(tmp_path / "here")
    for name in list(here):
        # References from a bucket to its photos are relative.
        if name == ".osamd/lock" or name.startswith(("labelme/", "review/index")):
            here.pop(name)
            copy.pop(name, None)
    assert here == copy
    labelme = (tmp_path / "copy" / "labelme" / "photo0.json").read_text()
    assert '"imagePath": "../../photos/photo0.png"' in labelme
    assert '"imagePath": "s3://data/photos/photo0.png"' in (tmp_path / "here" / "labelme" / "photo0.json").read_text()
    assert "../../photos/photo0.png" in (tmp_path / "copy" / "review" / "index.html").read_text()


def test_names_in_a_bucket_are_those_on_disk(tmp_path: Path, photos: Path, bucket: Bucket) -> None:
    """Folders without hidden ones and results, patterns, lists, single photos; file:// is a path."""
    on_disk = list(find_images([str(photos)]).images)
    for key in (".hidden/a.png", "sub/.a.png", "old/.osamd/manifest.jsonl", "old/masks/a.png", "notes.md"):
        bucket.pipe_file(f"s3://data/photos/{key}", b"")
    found = find_images(["s3://data/photos/"]).images
    assert on_disk == list(found)
    assert "s3://data/photos/sub/photo1.png" == found["sub/photo1.png"]
    assert ["sub/photo1.png", "sub/photo3.png"] == list(find_images(["s3://data/photos/sub*/photo?.png"]).images)
    assert {"photo0.png": "s3://data/photos/photo0.png"} == find_images(["s3://data/photos/photo0.png"]).images
    bucket.pipe_file("s3://data/list.txt", b"photos/photo0.png\n\ns3://other/a.jpg\n")
    assert {"photos/photo0.png": "s3://data/photos/photo0.png", "other/a.jpg": "s3://other/a.jpg"} == find_images(
        ["s3://data/list.txt"]
    ).images
    (tmp_path / "list.txt").write_text("s3://other/a.jpg\nphotos/photo0.png\n")
    assert {"other/a.jpg": "s3://other/a.jpg", "photos/photo0.png": str(photos / "photo0.png")} == find_images(
        [str(tmp_path / "list.txt")]
    ).images
    assert find_images([str(photos)]).images == find_images([photos.as_uri()]).images
    assert find_images([f"{photos}/photo?.png"]).images == find_images([f"{photos.as_uri()}/photo?.png"]).images
    # Keys of a bucket may have any parts; names are used on disk.
    assert "x.png" == name_of("s3://data/odd/../../x.png", "s3://data/odd")


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_lists_name_files_as_input_does(place: str, tmp_path: Path, bucket: Bucket) -> None:
    """file:// is a path there too, also of a name that is no text; a URL is the same one however it is written."""
    odd = os.fsdecode(os.fsencode(tmp_path / "photos") + b"/a#1 caf\xe9.png")
    text = f"file://{tmp_path}/photos/a.png\nfile://localhost{tmp_path}/photos/a#2.png\n{Path(odd).as_uri()}\nS3://data/b.png\n"
    (tmp_path / "list.txt").write_text(text)
    bucket.pipe_file("s3://data/list.txt", text.encode())
    given = str(tmp_path / "list.txt") if place == "disk" else "s3://data/list.txt"
    expected = {str(tmp_path / "photos" / "a.png"), str(tmp_path / "photos" / "a#2.png"), odd, "s3://data/b.png"}
    assert expected == set(find_images([given]).images.values())


@pytest.mark.usefixtures("photos")
def test_a_killed_run_in_a_bucket_continues_at_its_shard(tmp_path: Path, bucket: Bucket) -> None:
    """Nothing of an unfinished shard is written; finished ones are not done again."""
    prompts, log, there = Prompts(everything=True), tmp_path / "log", UrlPath("s3://data/masks")

    class Vanishing(PlainAnswers):
        def __call__(self, data: bytes, prompts: Any) -> list[Any]:
            if log.exists() and len(log.read_text().splitlines()) == 2:
                raise KeyboardInterrupt
            return super().__call__(data, prompts)

    out: Any = there
    with pytest.raises(KeyboardInterrupt):
        run_batch(
            ["s3://data/photos"], out, prompts=prompts, formats=["coco"], answers=Vanishing(log).opened, at_once=1
        )
    assert ["00000.jsonl"] == [Path(path).name for path in bucket.find("s3://data/masks/.osamd/shards")]
    answers = PlainAnswers(log).opened
    assert run_batch(["s3://data/photos"], out, prompts=prompts, formats=["coco"], answers=answers).is_finished
    # Of four photos one was done, and one is done again.
    assert 5 == len(log.read_text().splitlines())
    export(there, ["parquet"])
    assert 3 == len(bucket.find("s3://data/masks/shards"))


def test_the_command_takes_urls(tmp_path: Path, photos: Path, bucket: Bucket, osamd: Osamd) -> None:
    """For photos, results, and formats afterwards."""
    (photos / "broken.jpg").unlink()
    bucket.rm_file("s3://data/photos/broken.jpg")
    (tmp_path / "clicks.csv").write_text("image,x,y\nphoto0.png,20,15\n")
    arguments = ("--points-from", (tmp_path / "clicks.csv").as_uri(), "--threads", "1", "--out", "s3://data/masks")
    env = {"OSAMD_CACHE": str(tmp_path / "cache")}
    ended = osamd("batch", "s3://data/photos", *arguments, env=env)
    assert (0, True) == (ended.returncode, "results in s3://data/masks" in ended.err), ended.err
    assert bucket.exists("s3://data/masks/annotations.coco.json")
    ended = osamd("batch", "export", "s3://data/masks", "--format", "png", env=env)
    assert (0, True) == (ended.returncode, bucket.exists("s3://data/masks/masks/masks.csv")), ended.err
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s3://data/nothing", "--everything", "--out", "OUT"], "s3://data/nothing: no images found"),
        ([f"s3://me:{SECRET}@data/photos", "--everything", "--out", "OUT"], "URL with a name or password before @"),
        (["PHOTOS", "--everything", "--out", f"s3://me:{SECRET}@data/masks"], "URL with a name or password before @"),
        (["PHOTOS", "--everything", "--out", "ftp://host/masks"], "ftp:// cannot be read or written: expected a path"),
        (["file://photos/a.png", "--everything", "--out", "OUT"], "file://photos/a.png: expected an absolute path on"),
        (["s3://*/photos", "--everything", "--out", "OUT"], "expected a bucket after ://"),
        (["gs://data/photos", "--everything", "--out", "OUT"], "gs:// needs gcsfs: pip install 'osamd[urls]' gcsfs"),
        (["s3://data/boxes.json", "--out", "OUT"], "expected a data set on this machine, not a URL"),
        (["PHOTOS", "--boxes-from", "s3://data/boxes.json", "--out", "OUT"], "--boxes-from: expected a file on this"),
        (["s3://data/photos/broken.txt", "--everything", "--out", "OUT"], "Input/output error (NoCredentialsError)"),
    ],
)
def test_urls_that_cannot_be_used_are_explained_without_secrets(
    arguments: list[str],
    message: str,
    photos: Path,
    tmp_path: Path,
    bucket: Bucket,
    osamd: Osamd,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the store's library puts into its errors."""

    class NoCredentialsError(Exception):
        pass

    bucket.pipe_file("s3://data/boxes.json", b"{}")
    bucket.pipe_file("s3://data/photos/broken.txt", b"")
    Bucket.broken = NoCredentialsError(f"tried {SECRET}")
    given = [{"PHOTOS": str(photos), "OUT": str(tmp_path / "out")}.get(one, one) for one in arguments]
    with caplog.at_level(logging.DEBUG):
        ended = osamd("batch", *given)
    assert (2, True) == (ended.returncode, message in ended.err), ended.err
    assert SECRET not in ended.err + caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("photos")
def test_a_photo_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    """With the reason, and without the text of the store."""
    Bucket.broken = PermissionError(f"key {SECRET}")
    out = tmp_path / "out"
    assert 5 == run_batch(["s3://data/photos"], out, prompts=Prompts(everything=True), formats=["coco"]).failed
    told = (out / "failures.csv").read_text()
    assert ("Permission denied" in told, SECRET in told) == (True, False)


def test_without_fsspec_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InvalidRequestError, match=r"pip install 'osamd\[urls\]'"):
        place_of("s3://data/photos")


def test_ways_between_places(tmp_path: Path) -> None:
    """Relative within a bucket or a disk, else the whole URL or path."""
    assert "../photos/a.png" == way_to("s3://data/photos/a.png", UrlPath("s3://data/out"))
    assert "s3://other/a.png" == way_to("s3://other/a.png", UrlPath("s3://data/out"))
    assert "s3://data/a.png" == way_to("s3://data/a.png", tmp_path)
    assert "/photos/a.png" == way_to("/photos/a.png", UrlPath("s3://data/out"))
    assert "a.png" == way_to(str(tmp_path / "a.png"), tmp_path)
