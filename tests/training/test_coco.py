import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest
from training import coco
from training.coco import LEARNED, MEASURED, pictures, write_measured
from training.outlines import unpack

ROWS, COLUMNS = 40, 60
NAME: Final = "000000000007"
# Outlines of a third, an eighth, and a speck of the photo; one that is not listed.
SQUARES: Final = ((0, 0, 20, 40), (30, 0, 60, 10), (50, 30, 52, 32))
UNLISTED: Final = (0, 0, 60, 20)


def digest_of(used: object) -> str:
    """Of what is used of the annotations."""
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


def square(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """Polygons of a square, whose sides are between pixels. Some of COCO's numbers are written without a point."""
    return [[float(left), top, right, top, right, bottom, left, bottom]]


def as_floats(polygons: list[list[float]]) -> list[list[float]]:
    """As the digest counts them."""
    return [[float(place) for place in polygon] for polygon in polygons]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a site with one listed photo, and returns a folder for downloads from there."""

    def make(
        *, use: str = LEARNED, licence: int = 4, digest: str | None = None, outlines_digest: str | None = None
    ) -> Path:
        photo = tmp_path / "site" / "val2017" / f"{NAME}.jpg"
        photo.parent.mkdir(parents=True)
        cv2.imwrite(str(photo), np.full((ROWS, COLUMNS, 3), (200, 30, 10), np.uint8))
        entry = {
            "id": 7,
            "height": ROWS,
            "width": COLUMNS,
            "license": licence,
            "flickr_url": "http://flickr/1/77_ab_z.jpg",
        }
        outlines: list[dict[str, Any]] = [
            {"id": number, "image_id": 7, "iscrowd": 0, "segmentation": square(*corners)}
            for number, corners in enumerate(SQUARES)
        ]
        outlines.append({"id": 8, "image_id": 7, "iscrowd": 0, "segmentation": square(*UNLISTED)})
        outlines.append(outlines[0] | {"id": 9, "image_id": 6})
        with zipfile.ZipFile(tmp_path / "site" / "annotations.zip", "w") as archive:
            for split, images in (("train2017", []), ("val2017", [entry, entry | {"id": 6}])):
                found = {"images": images, "annotations": outlines if images else []}
                archive.writestr(f"annotations/instances_{split}.json", json.dumps(found))
        listed_ones = outlines[: len(SQUARES)]
        used = [
            (7, licence, entry["flickr_url"], ROWS, COLUMNS, *[as_floats(item["segmentation"]) for item in listed_ones])
        ]
        listed: dict[str, Any] = {some: {"train2017": {}, "val2017": {}} for some in (LEARNED, MEASURED)}
        listed[use]["val2017"][NAME] = {
            "photo": digest or hashlib.sha256(photo.read_bytes()).hexdigest(),
            "outlines": [item["id"] for item in listed_ones],
        }
        listed["outlines"] = {"train2017": digest_of([]), "val2017": outlines_digest or digest_of(used)}
        (tmp_path / "list.json").write_text(json.dumps(listed))
        monkeypatch.setattr(coco, "LIST", tmp_path / "list.json")
        monkeypatch.setattr(coco, "SOURCE", (tmp_path / "site").as_uri())
        monkeypatch.setattr(coco, "ANNOTATIONS", (tmp_path / "site" / "annotations.zip").as_uri())
        return tmp_path / "folder"

    return make


def test_photos_come_with_the_outlines_of_their_objects(site: Callable[..., Path], tmp_path: Path) -> None:
    """Those that are listed, the largest first, without specks; the notice says whose photos they are."""
    found, row = pictures(site(), tmp_path)

    scene, objects = found
    assert [("scene", NAME), ("objects", NAME)] == [(item.kind, item.name) for item in found]
    assert (ROWS, COLUMNS, 3) == scene.pixels.shape
    assert [True, False] == [scene.pixels[0, 0, channel] < 100 for channel in (0, 2)]
    bits = unpack(objects.pixels)
    assert [20 * 40, 10 * 30, 0] == [int((bits >> number & 1).sum()) for number in range(3)]
    assert (ROWS, COLUMNS) == bits.shape
    assert {"scene": 1, "objects": 2} == row["taken"]
    assert row["licence"] == "CC-BY-2.0"
    assert f"{NAME}  CC-BY-2.0  https://www.flickr.com/photo.gne?id=77\n" in (tmp_path / "coco.txt").read_text()


def test_photos_are_downloaded_once(site: Callable[..., Path], tmp_path: Path) -> None:
    """What is there is not asked for again."""
    folder = site()
    pictures(folder, tmp_path)
    (tmp_path / "site" / "val2017" / f"{NAME}.jpg").unlink()
    (tmp_path / "folder" / "coco" / "annotations.zip").unlink()
    (tmp_path / "site" / "annotations.zip").unlink()

    assert len(pictures(folder, tmp_path)[0]) == 2


def test_outlines_that_are_not_listed_are_not_read(site: Callable[..., Path], tmp_path: Path) -> None:
    """A file that an earlier list left may have them, such as crowds, whose form is another."""
    folder = site()
    pictures(folder, tmp_path)
    kept = folder / "coco" / "instances_val2017.json"
    found = json.loads(kept.read_text())
    found["annotations"].append({"id": 8, "image_id": 7, "iscrowd": 1, "segmentation": {"counts": [1], "size": [1, 1]}})
    kept.write_text(json.dumps(found))

    assert pictures(folder, tmp_path)[1]["taken"] == {"scene": 1, "objects": 2}


def test_a_photo_that_is_not_free_is_refused(site: Callable[..., Path], tmp_path: Path) -> None:
    """Even if it is on the list."""
    with pytest.raises(RuntimeError, match=r"000000000007: not a free licence: COCO's licence 1"):
        pictures(site(licence=1), tmp_path)


def test_another_photo_is_refused(site: Callable[..., Path], tmp_path: Path) -> None:
    """One that was changed since it was listed."""
    with pytest.raises(RuntimeError, match="is not the photo that was trained on"):
        pictures(site(digest="0" * 64), tmp_path)


def test_other_outlines_are_refused(site: Callable[..., Path], tmp_path: Path) -> None:
    """Nor are they kept."""
    with pytest.raises(RuntimeError, match="had other licences or outlines than were trained on"):
        pictures(site(outlines_digest="0" * 64), tmp_path)

    assert not (tmp_path / "folder" / "coco" / "instances_val2017.json").exists()


def test_what_is_measured_is_written_as_photos_and_masks(site: Callable[..., Path], tmp_path: Path) -> None:
    """Up to two objects of a photo, whatever its licence."""
    folder = site(use=MEASURED, licence=1)

    assert write_measured(folder, tmp_path / "objects") == 2
    masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (tmp_path / "objects" / "masks").iterdir()]
    assert {10 * 30, 20 * 40} == {int((np.asarray(mask) > 0).sum()) for mask in masks}
    assert [f"{NAME}.jpg"] == [path.name for path in (tmp_path / "objects" / "images").iterdir()]


def test_the_list_has_no_photo_for_both_uses() -> None:
    """What is learned must not be measured with."""
    listed = json.loads(coco.LIST.read_text())
    names = [set().union(*listed[use].values()) for use in (LEARNED, MEASURED)]

    assert [505, 347] == [len(some) for some in names]
    assert not names[0] & names[1]
