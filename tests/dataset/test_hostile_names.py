"""Names of photos come from files that somebody else wrote; none leads out of the output folder."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from commands import Osamd
from data_sets import run_batch, tree, write_boxes, write_photo, write_photos

from osamd.dataset.export import export
from osamd.dataset.inputs import find_images
from osamd.dataset.plan import Item
from osamd.dataset.planning import Prompts, make_plan
from osamd.errors import InvalidRequestError

FORMATS = ["coco", "yolo", "labelme", "png"]
LEAVING = [
    "../../../../evil.jpg",
    "/evil.jpg",
    "sub/../../evil.jpg",
    "..",
    ".",
    "",
    "sub/",
    "a//b.jpg",
    "a\0.jpg",
    "\ud800",
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run, in a folder below others that nobody may write to."""
    photos = write_photos(tmp_path / "photos")
    folder = tmp_path / "a" / "b" / "out"
    prompts = Prompts(boxes_from=str(write_boxes(tmp_path / "boxes.json", photos)))
    run_batch(photos, folder, prompts=prompts, formats=["parquet"])
    return folder


def rename_in_parquet(out: Path, names: Sequence[str], path: bytes | None = None) -> None:
    """Give the photos of the second shard other names, and the first of them another path, as a stranger would."""
    shutil.rmtree(out / ".osamd")
    file = out / "shards" / "00001.parquet"
    table = pyarrow.parquet.read_table(file)
    for column, values in (("image", names), ("path", [path, None] if path else [])):
        if values:
            at = table.schema.get_field_index(column)
            kept = table.column(at).to_pylist()
            both = [new if new is not None else old for new, old in zip(values, kept, strict=True)]
            table = table.set_column(at, table.schema.field(at), [both])
    pyarrow.parquet.write_table(table, file)


def rename_in_manifest(out: Path, names: Sequence[str]) -> None:
    """As above, in the state that a run continues."""
    manifest = out / ".osamd" / "manifest.jsonl"
    header, *lines = manifest.read_text().splitlines()
    for index, name in enumerate(names):
        lines[index] = json.dumps(json.loads(lines[index]) | {"name": name})
    manifest.write_text("\n".join([header, *lines, ""]))


@pytest.mark.parametrize("rename", [rename_in_parquet, rename_in_manifest])
def test_an_export_writes_nothing_outside(
    tmp_path: Path, out: Path, rename: Callable[[Path, Sequence[str]], None], osamd: Osamd
) -> None:
    """A name that leads out is refused before anything is written, in one line."""
    rename(out, ["sub/photo1.png", "../../../../evil.jpg"])
    before = tree(tmp_path)
    ended = osamd("batch", "export", str(out), "--format", ",".join(FORMATS))
    assert (2, True) == (ended.returncode, "has the name '../../../../evil.jpg'" in ended.err), ended.err
    assert before == tree(tmp_path)


def test_a_photo_called_like_a_folder_of_another_is_not_written_through(tmp_path: Path, out: Path) -> None:
    """Its link in yolo/images leads to where a stranger's file says, and the other photo's would be made there."""
    (tmp_path / "home").mkdir()
    victim = write_photo(tmp_path / "home" / "evil.jpg")
    before = victim.read_bytes()
    rename_in_parquet(out, ["folder", "folder/evil.jpg"], bytes(tmp_path / "home"))
    with pytest.raises(InvalidRequestError, match="a photo is called like the folder of another"):
        export(out, ["yolo"])
    assert (False, before) == (victim.is_symlink(), victim.read_bytes())
    assert [victim] == list((tmp_path / "home").iterdir())


@pytest.mark.parametrize("name", LEAVING)
def test_a_name_is_one_of_a_file_below_any_folder(name: str) -> None:
    """Whoever made it."""
    with pytest.raises(InvalidRequestError, match="photo 3 has the name"):
        Item(3, name, "/photos/a.jpg", 4)


@pytest.mark.parametrize("path", ["", "/a\0b", "/\ud800"])
def test_a_path_is_one_that_a_file_can_have(path: str) -> None:
    """Else it would fail where it is read, and stop the run."""
    with pytest.raises(InvalidRequestError, match="photo 3 has the name"):
        Item(3, "a.jpg", path, 4)


def test_usual_names_are_names() -> None:
    """Dots, backslashes, spaces and line breaks are letters; a path may be no text."""
    for name in ("a.jpg", "..a.jpg", "a/...", "a\\b.jpg", "C:\\a.jpg", " ", "a\nb.jpg", "é/日本.jpg", ".hidden/a"):
        assert name == Item(0, name, "/photos/\udce9.jpg", 1).name


@pytest.mark.parametrize("file_name", ["", ".", "a\0.jpg"])
def test_coco_files_with_names_of_no_file_are_refused(tmp_path: Path, file_name: str) -> None:
    """Before the run begins."""
    boxes = tmp_path / "boxes.json"
    boxes.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": file_name}],
                "categories": [{"id": 1, "name": "cat"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
            }
        )
    )
    with pytest.raises(InvalidRequestError, match="photo 0 has the name"):
        make_plan([str(boxes)], Prompts(), model="none", digest="", shard_size=1)


def test_data_sets_that_lead_out_are_named_inside(tmp_path: Path) -> None:
    """COCO's file_name, YOLO's splits and lists, a list's lines: their photos may be anywhere, their names may not."""
    photo = write_photo(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "boxes.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "../elsewhere/a.png"}], "categories": [], "annotations": []})
    )
    (folder / "list.txt").write_text("../elsewhere/a.png\n")
    (folder / "data.yaml").write_text("train: ../elsewhere\nval: list.txt\nnames: [cat]\n")
    for given in ("boxes.json", "list.txt", "data.yaml"):
        images = find_images([str(folder / given)]).images
        assert {str(photo).lstrip("/"): str(photo)} == {
            Item(0, name, path, 1).name: str(Path(path).resolve()) for name, path in images.items()
        }


def test_files_of_another_form_are_refused_in_one_line(out: Path, osamd: Osamd) -> None:
    """A line of the manifest that is no photo, and Parquet files without the columns."""
    manifest = out / ".osamd" / "manifest.jsonl"
    whole = manifest.read_text()
    for wrong in ("{}", "[]", "x", '{"name": 5}'):
        header, _, *others = whole.splitlines()
        manifest.write_text("\n".join([header, wrong, *others, ""]))
        with pytest.raises(InvalidRequestError, match=r"manifest\.jsonl: photo 0: expected a line of osamd batch"):
            export(out, ["png"])
    shutil.rmtree(out / ".osamd")
    file = out / "shards" / "00001.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).drop_columns(["path"]), file)
    ended = osamd("batch", "export", str(out), "--format", "png")
    assert (2, True) == (ended.returncode, "00001.parquet: expected the columns and values of" in ended.err), ended.err


@pytest.mark.parametrize("counts", ["", "01", "no run lengths"])
def test_masks_that_do_not_fill_their_image_are_refused(out: Path, counts: str) -> None:
    """They would show memory of the process, which pycocotools leaves where no run is."""
    shutil.rmtree(out / ".osamd")
    file = out / "shards" / "00001.parquet"
    table = pyarrow.parquet.read_table(file)
    at = table.schema.get_field_index("objects")
    rows = [[one | {"counts": counts} for one in row] for row in table.column(at).to_pylist()]
    objects = table.schema.field(at)
    pyarrow.parquet.write_table(table.set_column(at, objects, pa.array(rows, objects.type)), file)
    for name in ("png", "labelme", "yolo"):
        with pytest.raises(InvalidRequestError, match="expected run lengths of a mask of"):
            export(out, [name])
