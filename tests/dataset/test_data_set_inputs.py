"""What INPUT, --boxes-from and --points-from may be, and what is said when they are something else."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import HEIGHT, WIDTH, NotingAnswers, run_batch, tree, write_boxes, write_photo, write_photos
from hypothesis import given
from hypothesis import strategies as st
from serving import clean_environment

from osamd.dataset.answers import RowMaker
from osamd.dataset.formats import check_stems
from osamd.dataset.inputs import find_images, name_of
from osamd.dataset.plan import STATE, Category, Header, Item, Target
from osamd.dataset.planning import Prompts, make_plan
from osamd.errors import InvalidRequestError
from osamd.pixels.images import decode_image

POWERLESS = Path(__file__).parents[1] / "powerless_process.py"
FOUND = ["photo0.png", "photo2.png", "sub/photo1.png", "sub/photo3.png"]


def plan(inputs: list[str], prompts: Prompts) -> list[Item]:
    """The photos of a run."""
    return make_plan(inputs, prompts, model="none", digest="", shard_size=10).items


def test_folders_patterns_lists_and_images_name_the_same_photos(tmp_path: Path) -> None:
    """Names are relative to INPUT; hidden files, and files that are no images, are not photos."""
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.jpg").unlink()
    (photos / "notes.md").write_text("no photo")
    write_photo(photos / ".cache" / "hidden.png")
    listed = tmp_path / "photos" / "list.txt"
    listed.write_text("\n".join([*reversed(FOUND), "", FOUND[0]]))

    assert FOUND == list(find_images([str(photos)]).images)
    assert FOUND == list(find_images([f"{photos}/**/*.png"]).images)
    assert FOUND == list(find_images([str(listed)]).images)
    assert ["photo0.png"] == list(find_images([str(photos / "photo0.png")]).images)
    assert FOUND == list(find_images([str(photos), str(photos / "photo0.png")]).images)


@pytest.mark.parametrize("pattern", ["", "/**/*.png"])
def test_links_that_lead_back_are_not_followed(pattern: str, tmp_path: Path) -> None:
    """Each photo is found once, in a folder and by a pattern; other links to folders are followed."""
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.jpg").unlink()
    write_photo(tmp_path / "elsewhere" / "far.png")
    (photos / "itself").symlink_to(photos, target_is_directory=True)
    (photos / "sub" / "up").symlink_to(photos, target_is_directory=True)
    (photos / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(photos, target_is_directory=True)
    assert sorted(["linked/far.png", *FOUND]) == list(find_images([f"{photos}{pattern}"]).images)


@pytest.mark.parametrize("pattern", ["", "/**/*.png"])
def test_results_inside_the_folder_are_not_photos(pattern: str, tmp_path: Path) -> None:
    """Whether of this run, which could otherwise not continue, or of another; unless they are named."""
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.jpg").unlink()
    (photos / "out" / STATE).mkdir(parents=True)
    write_photo(photos / "out" / "masks" / "photo0" / "0.png")
    assert FOUND == list(find_images([f"{photos}{pattern}"]).images)
    assert ["photo0/0.png"] == list(find_images([f"{photos}/out/masks{pattern}"]).images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing", "no such file or folder"),
        ("empty", "no images found"),
        ("*.jpg", "no images found"),
        ("a" * 256, "aaa: File name too long"),
        ("a" * 256 + ".json", "json: File name too long"),
    ],
)
def test_an_input_without_images_is_named(given: str, message: str, tmp_path: Path) -> None:
    """Before anything is done."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequestError, match=message):
        find_images([str(tmp_path / given)])


def test_two_photos_of_one_name_are_refused(tmp_path: Path) -> None:
    """From two INPUTs, and for formats whose files are named without the suffix."""
    for folder in ("one", "two"):
        write_photo(tmp_path / folder / "a.png")
    with pytest.raises(InvalidRequestError, match=r"would both be called a\.png"):
        find_images([str(tmp_path / "one"), str(tmp_path / "two")])
    write_photo(tmp_path / "one" / "a.bmp")
    items = plan([str(tmp_path / "one")], Prompts(everything=True))
    check_stems(items, ["coco", "parquet", "review"])
    with pytest.raises(InvalidRequestError, match=r"a\.bmp and a\.png would have the same file in --format yolo"):
        check_stems(items, ["coco", "yolo"])
    # Such as on SMB, exFAT and most Macs.
    twins = [Item(0, "a/B.jpg", "/p", 1), Item(1, "A/b.png", "/p", 2), Item(2, "caf\u00e9.jpg", "/p", 3)]
    check_stems(twins, ["png"])
    with pytest.raises(InvalidRequestError, match=r"a/B\.jpg and A/b\.png would .*the output folder ignores case"):
        check_stems(twins, ["png"], folds_case=True)
    with pytest.raises(InvalidRequestError, match="would have the same file"):
        check_stems([*twins[2:], Item(3, "cafe\u0301.jpg", "/p", 4)], ["png"], folds_case=True)


def test_two_photos_of_one_name_in_a_list_are_refused(tmp_path: Path) -> None:
    """One below its folder and one elsewhere, also in a YOLO data set; one that is listed twice is one photo."""
    outside = write_photo(tmp_path / "a.png")
    folder = tmp_path / "set"
    inside = write_photo(folder / str(outside).lstrip("/"))
    (folder / "list.txt").write_text(f"{outside}\n../a.png\n{outside}\n")
    assert {str(outside).lstrip("/"): str(outside)} == find_images([str(folder / "list.txt")]).images
    (folder / "both.txt").write_text(f"{inside.relative_to(folder)}\n{outside}\n")
    (folder / "data.yaml").write_text(f"train: {inside.relative_to(folder)}\nval: {outside}\nnames: [cat]\n")
    for name in ("both.txt", "data.yaml"):
        with pytest.raises(InvalidRequestError, match=r"a\.png would both be called .*a\.png"):
            find_images([str(folder / name)])


@pytest.mark.parametrize("given", ["", "lost+found/a.png", "lost+found/boxes.json"])
def test_a_folder_that_may_not_be_entered_is_named(given: str, tmp_path: Path) -> None:
    """Such as lost+found at the root of a disk."""
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "lost+found").mkdir(mode=0)
    command = [sys.executable, str(POWERLESS), "batch", str(tmp_path / "photos" / given), "--everything"]
    ended = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        env=clean_environment({"OSAMD_CACHE": str(tmp_path / "cache")}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (2, True) == (ended.returncode, ended.stderr.endswith(": Permission denied\n")), ended.stderr
    assert "lost+found" in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


@given(st.lists(st.sampled_from(["a", "..", "b", ".", "\udcff"]), min_size=1, max_size=6), st.booleans())
def test_a_name_never_leaves_the_output_folder(parts: list[str], is_absolute: bool) -> None:  # noqa: FBT001
    """Whatever a list or a data set calls its images; and it can be written to any text file."""
    name = name_of(("/" if is_absolute else "") + "/".join([*parts, "x.png"]), "base")
    assert ".." not in name.split("/")
    assert not name.startswith("/")
    name.encode()


def test_a_coco_file_is_an_input_of_its_own(tmp_path: Path) -> None:
    """Its images are relative to it; ids and categories are kept, and crowds are not objects."""
    photos = write_photos(tmp_path / "photos", 2)
    path = write_boxes(photos / "boxes.json", photos)
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))

    items = plan([str(path)], Prompts())

    assert {image["file_name"]: image["id"] for image in content["images"]} == {
        item.name: item.image_id for item in items
    }
    assert [1, 2, 2] == [len(item.targets) for item in items]
    assert Target(4, box=(8, 5, 34, 24)) == items[1].targets[1]


def coco(**annotation: Any) -> str:
    """A COCO file with an image, a category and an annotation."""
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 2, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 2} | annotation],
    }
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"json: not JSON: EOF.* at line 1 column 1; expected COCO JSON"),
        ("[]", r"json: expected an object; expected COCO JSON"),
        ('{"images": []}', "categories: missing; expected COCO JSON"),
        (coco(), r"annotations\[0\]\.bbox: expected x, y, width and height"),
        (coco(category_id=3), r"annotations\[0\]\.category_id: no category has the id 3"),
        (coco(image_id=4), r"annotations\[0\]\.image_id: no image has the id 4"),
        (coco(category_id=True), r"annotations\[0\]\.category_id: expected a whole number"),
        (coco(bbox=[1, 2, 3]), r"annotations\[0\]\.bbox: .*at least 4 items"),
        (coco(bbox=[1, 2, 3, "x"]), r"annotations\[0\]\.bbox\[3\]: expected a number"),
        (coco(bbox=[1, 2, True, 4]), r"annotations\[0\]\.bbox\[2\]: expected a number"),
        (coco(bbox=[1, 2, math.nan, 4]), r"annotations\[0\]\.bbox\[2\]: expected a finite number"),
        (coco(bbox=[1e20, 2, 3, 4]), r"annotations\[0\]\.bbox\[0\]: .*less than or equal to 1000000000"),
        (
            '{"images": [{"id": 1, "file_name": "other.png"}], "categories": [], "annotations": []}',
            r"no objects for any image.*such as a\.png; it names other\.png",
        ),
    ],
)
def test_a_wrong_coco_file_is_explained(text: str, message: str, tmp_path: Path) -> None:
    """In one line: the file, where in it, and what was expected, or how names are compared."""
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(InvalidRequestError, match=message) as refused:
        plan([str(tmp_path / "photos")], Prompts(boxes_from=str(tmp_path / "boxes.json")))
    assert "\n" not in str(refused.value)


def test_a_coco_file_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it; and numbers as names, ids as text."""
    write_photo(tmp_path / "photos" / "a.png")
    content = json.loads(coco(image_id="one", bbox=[1, 2, 3, 4]))
    content["images"][0]["id"], content["categories"][0]["name"] = "one", 7
    (tmp_path / "photos" / "boxes.json").write_text(json.dumps(content), "utf-8-sig")
    (item,) = plan([str(tmp_path / "photos" / "boxes.json")], Prompts())
    assert ("one", (Target(2, box=(1, 2, 3, 5)),)) == (item.image_id, item.targets)


def write_yolo(root: Path) -> Path:
    """A YOLO data set with a box, a polygon and a background; returns its ``data.yaml``."""
    for name in ("a", "b", "c"):
        write_photo(root / "images" / "train" / f"{name}.png")
    labels = root / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (labels / "b.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 1\n")
    (root / "data.yaml").write_text("train: images/train\nnames:\n  0: cat\n  1: dog\n")
    return root / "data.yaml"


def test_yolo_boxes_become_pixels_when_the_photo_is_read(tmp_path: Path) -> None:
    """As data.yaml, and as a folder of labels beside a folder of images; polygons count as their boxes."""
    data = write_yolo(tmp_path / "set")
    by_yaml = plan([str(data)], Prompts())
    by_folder = plan(
        [str(tmp_path / "set" / "images" / "train")], Prompts(boxes_from=str(tmp_path / "set" / "labels" / "train"))
    )
    assert [item.targets for item in by_yaml] == [item.targets for item in by_folder]

    answers = NotingAnswers()
    header = Header("none", "", "boxes", (), (Category(0, "cat"), Category(1, "dog")), 10, 3, "")
    rows = [RowMaker(header, answers, decode_image)(item) for item in by_yaml]
    assert [[{"box": [18, 8, 29, 23]}], [{"box": [12, 8, 35, 31]}]] == answers.asked
    assert [""] * 3 == [row.code for row in rows]


@pytest.mark.parametrize(
    "line",
    [
        "1 0.5 0.5 0.2",
        "x 0.5 0.5 0.2 0.2",
        "1 nan 0.5 0.2 0.2",
        "-1 0.5 0.5 0.2 0.2",
        "1 1e99 0.5 0.2 0.2",
        "1 320 240 64 48",
    ],
)
def test_a_wrong_yolo_line_is_named(line: str, tmp_path: Path) -> None:
    """With its file and number."""
    data = write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(f"1 0.5 0.5 0.25 0.5\n{line}\n")
    with pytest.raises(InvalidRequestError, match=r"a\.txt:2: expected 'class x y width height'"):
        plan([str(data)], Prompts())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "data.yaml",
            b"train: images/train\nnames: [cat, dog\n",
            r"data\.yaml:3: not YAML: .*; expected a YOLO data set",
        ),
        ("data.yaml", b"train: images/train\nnames: \x00\n", r"data\.yaml: not YAML: .*; expected a YOLO data set"),
        ("data.yaml", b"- train\n", r"data\.yaml: expected a YOLO data set with train, val and names"),
        ("data.yaml", b"train: 5\nnames: [cat]\n", r"data\.yaml: train: expected a path, or a list of paths"),
        ("data.yaml", b"train: images/train\nnames: {true: cat}\n", r"data\.yaml: expected names to be a list"),
        ("labels/train/classes.txt", b"\xff", r"classes\.txt: not a text file in UTF-8"),
        ("labels/train/a.txt", b"\xff", r"a\.txt: not a text file in UTF-8"),
    ],
)
def test_a_wrong_yolo_file_is_explained(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """In one line: the file, where in it, and what was expected."""
    data = write_yolo(tmp_path)
    (tmp_path / name).write_bytes(content)
    prompts = Prompts() if name == "data.yaml" else Prompts(boxes_from=str(tmp_path / "labels" / "train"))
    with pytest.raises(InvalidRequestError, match=message) as refused:
        plan([str(data) if name == "data.yaml" else str(tmp_path / "images" / "train")], prompts)
    assert "\n" not in str(refused.value)


def test_labels_behind_a_link_are_read_before_the_run(tmp_path: Path) -> None:
    """Their classes are known then, and their mistakes reported."""
    write_yolo(tmp_path / "set")
    (tmp_path / "set" / "data.yaml").unlink()
    labels = tmp_path / "linked"
    labels.mkdir()
    (labels / "train").symlink_to(tmp_path / "set" / "labels" / "train")
    photos = [str(tmp_path / "set" / "images")]
    made = make_plan(photos, Prompts(boxes_from=str(labels)), model="none", digest="", shard_size=10)
    assert {0, 1} == {category.id for category in made.header.categories}
    (tmp_path / "set" / "labels" / "train" / "a.txt").write_text("1 0.5\n")
    with pytest.raises(InvalidRequestError, match=r"a\.txt:1: expected"):
        plan(photos, Prompts(boxes_from=str(labels)))


def test_a_blank_line_in_the_list_of_classes_counts(tmp_path: Path) -> None:
    """The number of the line is the class."""
    write_yolo(tmp_path)
    labels = tmp_path / "labels" / "train"
    (labels / "classes.txt").write_text("cat\n\ndog\n\n")
    (labels / "a.txt").write_text("2 0.5 0.5 0.25 0.5\n")
    prompts = Prompts(boxes_from=str(labels))
    made = make_plan([str(tmp_path / "images" / "train")], prompts, model="none", digest="", shard_size=10)
    assert (Category(0, "cat"), Category(2, "dog")) == made.header.categories


@pytest.mark.parametrize("by_yaml", [True, False])
def test_key_points_are_no_corners(by_yaml: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Labels of pose data sets are boxes, with key points behind them."""
    data = write_yolo(tmp_path)
    data.write_text(data.read_text() + "kpt_shape: [2, 2]\n")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 .5 .5 .2 .2 .45 .45 .55 .55\n")
    prompts = Prompts() if by_yaml else Prompts(boxes_from=str(tmp_path / "labels" / "train"))
    (target,) = plan([str(data) if by_yaml else str(tmp_path / "images" / "train")], prompts)[0].targets
    assert (0.4, 0.4, 0.6, 0.6) == pytest.approx(target.box)


def test_yolo_files_as_roboflow_exports_them(tmp_path: Path) -> None:
    """``../train/images`` is a folder beside the file, and the folder of ``test`` may be missing."""
    for split in ("train", "valid"):
        write_photo(tmp_path / split / "images" / f"{split}.png")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / f"{split}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    data = tmp_path / "data.yaml"
    data.write_text("train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]\n")
    found = plan([str(data)], Prompts())
    assert [("train/images/train.png", 1), ("valid/images/valid.png", 1)] == [
        (item.name, len(item.targets)) for item in found
    ]
    data.write_text("train: ../train/images\nval: ../absent/images\nnames: [cat]\n")
    with pytest.raises(InvalidRequestError, match=r"absent/images: no such file or folder"):
        plan([str(data)], Prompts())


def test_all_suffixes_of_the_formats_that_are_read_are_photos(tmp_path: Path) -> None:
    """Whatever a camera or a browser called them."""
    names = ["a.jpg", "b.jfif", "c.mpo", "d.HIF", "e.j2c", "f.JPG", "g.apng", "h.dib", "i.jpf"]
    for name in (*names, "notes.txt", "raw.cr2"):
        (tmp_path / name).write_bytes(b"")
    assert names == list(find_images([str(tmp_path)]).images)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo for all examples of a property."""
    return write_photo(tmp_path_factory.mktemp("tiny") / "tiny.png")


@given(
    box=st.tuples(*[st.floats(-60, 100, allow_nan=False)] * 4).map(
        lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    )
)
def test_boxes_are_clipped_to_the_photo_or_refused(tiny: Path, box: tuple[float, float, float, float]) -> None:
    """One that touches the photo lies inside afterwards; one that does not is left as it is, and fails alone."""
    answers = NotingAnswers()
    header = Header("none", "", "boxes", (), (Category(0, "cat"),), 10, 1, "")
    RowMaker(header, answers, decode_image)(Item(0, "tiny.png", str(tiny), 1, (Target(0, box=box),)))
    found = answers.asked[0][0]["box"]
    touches = box[0] < WIDTH and box[1] < HEIGHT and box[2] > -1 and box[3] > -1
    if touches:
        assert 0 <= found[0] <= found[2] <= WIDTH - 1
        assert 0 <= found[1] <= found[3] <= HEIGHT - 1
    else:
        np.testing.assert_allclose(box, found)


def test_clicks_come_from_csv(tmp_path: Path) -> None:
    """Rows of one object are one prompt; without ``object`` each row is one."""
    photos = write_photos(tmp_path / "photos", 2)
    clicks = tmp_path / "clicks.csv"
    clicks.write_text(
        "image,x,y,point_label,object,category\nphoto0.png,4,5,1,one,dog\nphoto0.png,9,9,0,one,dog\n"
        "photo0.png,20,20,,,cat\nsub/photo1.png,7,8,1,,\n"
    )
    items = {item.name: item for item in plan([str(photos)], Prompts(points_from=str(clicks)))}
    assert (
        Target(2, points=((4, 5), (9, 9)), point_labels=(1, 0)),
        Target(1, points=((20, 20),), point_labels=(1,)),
    ) == items["photo0.png"].targets
    assert () == items["broken.jpg"].targets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x\n", r"clicks\.csv: expected the columns image, x and y; missing y"),
        ("image,x,y,label\na.png,4,5,0\n", r"clicks\.csv: column 'label': expected .*point_label, object, category"),
        ("image,x,y,x\na.png,4,5,0\n", r"clicks\.csv: column 'x': .*each once"),
        ("image,x,y\na.png,4,five\n", r"clicks\.csv:2: expected x and y in pixels, got '4' and 'five'"),
        ("image,x,y\na.png,4,5\na.png,1e99,5\n", r"clicks\.csv:3: expected x and y in pixels"),
        ("image,x,y\na.png,4,nan\n", r"clicks\.csv:2: expected x and y in pixels"),
        ("image,x,y\na.png,4,5,6\n", r"clicks\.csv:2: expected as many values as there are columns"),
        ("image,x,y\na.png,4\n", r"clicks\.csv:2: expected as many values as there are columns"),
        ("image,x,y\n,4,5\n", r"clicks\.csv:2: expected the name of an image"),
        ("image,x,y,point_label\na.png,4,5,2\n", r"clicks\.csv:2: expected a point_label of 1 or 0"),
    ],
)
def test_wrong_csv_is_explained(text: str, message: str, tmp_path: Path) -> None:
    """Before any photo, with the line: nothing that was given is ignored."""
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "clicks.csv").write_text(text)
    with pytest.raises(InvalidRequestError, match=message):
        plan([str(tmp_path / "photos")], Prompts(points_from=str(tmp_path / "clicks.csv")))


def test_the_order_of_inputs_and_folders_does_not_matter(tmp_path: Path) -> None:
    """Two runs of the same photos give the same bytes, wherever the output is."""
    photos = write_photos(tmp_path / "photos")
    run_batch(photos, tmp_path / "one", prompts=Prompts(everything=True))
    run_batch([f"{photos}/**/*"], tmp_path / "two", prompts=Prompts(everything=True))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
