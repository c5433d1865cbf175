"""Every output format, read back by the code that defines it, or by its documented rules."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import yaml
from data_sets import ALL_FORMATS, HEIGHT, WIDTH, PlainAnswers, block, ring_and_dot, run_batch, write_boxes, write_photo
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from osamd.dataset.formats.yolo import one_outline
from osamd.dataset.planning import Prompts
from osamd.errors import InvalidImageError
from osamd.pixels.masks import mask_from_array, polygons

Inside = npt.NDArray[np.bool_]
MASKS = (ring_and_dot(), block())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats of three photos with a ring and a block in each, and of a file that is no image."""
    folder = tmp_path_factory.mktemp("formats")
    photos = folder / "photos"
    for number, name in enumerate(("a.png", "sub/b.png", "c & <d>.png")):
        write_photo(photos / name, number)
    (photos / "no.jpg").write_text("no image")
    prompts = Prompts(boxes_from=str(write_boxes(folder / "boxes.json", photos)))
    run_batch(photos, folder / "out", prompts=prompts)
    return folder / "out"


def test_pycocotools_reads_the_masks(out: Path) -> None:
    """Masks with holes and parts come back exactly, with the data set's own ids of images and categories."""
    coco = COCO(out / "annotations.coco.json")
    source = json.loads((out.parent / "boxes.json").read_text())
    ids = {image["file_name"]: image["id"] for image in source["images"]}

    assert {name: number for name, number in ids.items() if name != "no.jpg"} == {
        image["file_name"]: image["id"] for image in coco.imgs.values()
    }
    assert {4: "block", 9: "ring & dot"} == {one["id"]: one["name"] for one in coco.cats.values()}
    assert 6 == len(coco.anns)
    for annotation in coco.anns.values():
        expected = MASKS[0] if annotation["category_id"] == 9 else MASKS[1]
        np.testing.assert_array_equal(expected, coco.annToMask(annotation).astype(bool))
        assert expected.sum() == annotation["area"]
        assert list(cv2.boundingRect(expected.view(np.uint8))) == annotation["bbox"]


def test_cocoeval_scores_boxes_turned_into_masks(out: Path) -> None:
    """The result is a COCO ground truth as well as a detection result: against itself it is perfect."""
    truth = COCO(out / "annotations.coco.json")
    results = json.loads((out / "annotations.coco.json").read_text())["annotations"]
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 1 == pytest.approx(evaluation.stats[0])


def read_yolo(label: Path, *, width: int, height: int) -> list[tuple[int, Inside]]:
    """Label lines by ultralytics' rules: a class and a polygon in fractions, truncated to pixels and filled."""
    found = []
    for line in label.read_text().splitlines():
        number, *values = line.split()
        assert len(values) % 2 == 0
        assert len(values) >= 6
        fractions = np.array(values, np.float64).reshape(-1, 2)
        assert ((fractions >= 0) & (fractions <= 1)).all()
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [(fractions * (width, height)).astype(np.int32)], 1)
        found.append((int(number), canvas.astype(bool)))
    return found


def test_yolo_labels_follow_the_documented_rules(out: Path) -> None:
    """``data.yaml`` leads to images and labels; a mask in one piece is exact, and bridges are a pixel wide."""
    data = yaml.safe_load((out / "yolo" / "data.yaml").read_text())
    assert ({0: "block", 1: "ring & dot"}, "images") == (data["names"], data["train"])
    images = sorted(path for path in (out / "yolo" / data["train"]).rglob("*") if path.is_file())
    assert ["a.png", "b.png", "c & <d>.png"] == sorted(path.name for path in images)
    for image in images:
        with Image.open(image) as picture:
            assert (WIDTH, HEIGHT) == picture.size
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        (first, ring), (second, solid) = read_yolo(label, width=WIDTH, height=HEIGHT)
        assert (1, 0) == (first, second)
        np.testing.assert_array_equal(MASKS[1], solid)
        assert not (MASKS[0] & ~ring).any()
        # The hole is still one, and the dot is joined by a line.
        assert not ring[10:13, 12:19].all()
        assert (ring & ~MASKS[0]).sum() < 40


@given(arrays(np.bool_, (12, 16), elements=st.booleans()))
def test_one_outline_keeps_every_pixel(inside: Inside) -> None:
    """Of any mask: no pixel is lost, and what is added is on the bridges between parts and holes."""
    mask = mask_from_array(inside, offset=(0, 0), height=12, width=16)
    if mask is None:
        return
    outline = one_outline(polygons(mask))
    canvas = np.zeros((12, 16), np.uint8)
    cv2.fillPoly(canvas, [outline.astype(np.int32)], 1)
    filled = canvas.astype(bool)
    line = np.zeros((12, 16), np.uint8)
    cv2.polylines(line, [outline.astype(np.int32)], isClosed=True, color=1)
    assert not (inside & ~filled).any()
    assert not (filled & ~inside & ~line.astype(bool)).any()


def labelme_mask(shape: dict[str, Any]) -> Inside:
    """A shape as labelme draws it: a polygon by Pillow, with its outline, or the mask in its box."""
    if shape["shape_type"] == "polygon":
        canvas = Image.new("1", (WIDTH, HEIGHT))
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
        return np.asarray(canvas, bool)
    (x1, y1), (x2, y2) = shape["points"]
    inside = np.zeros((HEIGHT, WIDTH), np.bool_)
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as crop:
        inside[y1 : y2 + 1, x1 : x2 + 1] = np.asarray(crop, bool)
    return inside


def test_labelme_files_name_their_image_and_keep_the_masks(out: Path) -> None:
    """A mask in one piece is a polygon that people can edit; one with holes or parts is a mask shape."""
    files = sorted((out / "labelme").rglob("*.json"))
    assert 3 == len(files)
    for file in files:
        content = json.loads(file.read_text())
        with Image.open(file.parent / content["imagePath"]) as picture:
            assert (content["imageWidth"], content["imageHeight"]) == picture.size
        assert ["mask", "polygon"] == [shape["shape_type"] for shape in content["shapes"]]
        assert ["ring & dot", "block"] == [shape["label"] for shape in content["shapes"]]
        for expected, shape in zip(MASKS, content["shapes"], strict=True):
            np.testing.assert_array_equal(expected, labelme_mask(shape))


def test_png_masks_have_the_size_of_the_image(out: Path) -> None:
    """One per object, so that overlapping ones stay apart, with a table that says what each is."""
    with (out / "masks" / "masks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 6 == len(rows)
    assert {row["file"] for row in rows} == {
        str(path.relative_to(out / "masks")) for path in (out / "masks").rglob("*.png")
    }
    for row in rows:
        with Image.open(out / "masks" / row["file"]) as picture:
            expected = MASKS[0] if row["category"] == "ring & dot" else MASKS[1]
            np.testing.assert_array_equal(expected, np.asarray(picture) == 255)


def test_pyarrow_reads_the_shards(out: Path) -> None:
    """One row per photo, failed ones too; the run lengths are those of the COCO file."""
    rows = pq.read_table(out / "shards").sort_by("index").to_pylist()
    assert ["a.png", "c & <d>.png", "no.jpg", "sub/b.png"] == [row["image"] for row in rows]
    assert [None, None, "invalid_image", None] == [row["error_code"] for row in rows]
    annotations = json.loads((out / "annotations.coco.json").read_text())["annotations"]
    objects = [one for row in rows for one in row["objects"]]
    assert [one["segmentation"]["counts"] for one in annotations] == [one["counts"] for one in objects]
    assert [one["bbox"] for one in annotations] == [one["bbox"] for one in objects]


def test_the_failed_photo_is_listed_with_its_reason(out: Path) -> None:
    """And has no files in other formats."""
    with (out / "failures.csv").open(newline="") as file:
        ((first, second, third),) = [row.values() for row in csv.DictReader(file)]
    assert ("no.jpg", "invalid_image", True) == (first, second, "not an image" in third)
    assert not list((out / "yolo").rglob("no.*"))


def test_an_image_with_nothing_in_it_is_a_background(tmp_path: Path) -> None:
    """It has an empty YOLO label and no annotations, and is no failure."""
    write_photo(tmp_path / "photos" / "empty.png")
    nothing = PlainAnswers(masks=[np.zeros((HEIGHT, WIDTH), np.bool_)])
    outcome = run_batch(tmp_path / "photos", tmp_path / "out", prompts=Prompts(everything=True), answers=nothing.opened)

    assert (True, 0) == (outcome.is_finished, outcome.failed)
    assert "" == (tmp_path / "out" / "yolo" / "labels" / "empty.txt").read_text()
    coco = json.loads((tmp_path / "out" / "annotations.coco.json").read_text())
    assert (1, []) == (len(coco["images"]), coco["annotations"])
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_the_review_page_shows_the_worst_first(out: Path) -> None:
    """It loads nothing from elsewhere, names are escaped, and every thumbnail exists."""
    page = (out / "review" / "index.html").read_text()
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert "<script" not in page
    assert "c &amp; &lt;d&gt;.png" in page
    places = [part.partition('"')[0] for part in page.split('src="')[1:]]
    assert 3 == len([place for place in places if (out / "review" / place).is_file()])
    assert page.index("no.jpg") < page.index("<img")
    scores = [float(part[:4]) for part in page.split("worst ")[2:]]
    assert sorted(scores) == scores
    assert len(ALL_FORMATS) == 6


@pytest.mark.parametrize("error", [MemoryError("the decoding process was killed"), InvalidImageError("broken")])
def test_the_review_page_shows_masks_on_grey_without_the_photo(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be decoded any more does not stop the run."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("osamd.dataset.review.CarefulDecoder.__call__", fail)
    write_photo(tmp_path / "photos" / "a.png", 255)
    run_batch(tmp_path / "photos", tmp_path / "out", prompts=Prompts(everything=True), formats=["review"])
    with Image.open(tmp_path / "out" / "review" / "00000" / "0000000.jpg") as picture:
        pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels[31, 0] - 128).max() < 8
    assert np.abs(pixels[6, 8] - 128).max() > 20
