"""Formats of a finished run, from its shards or from its Parquet files, are those that the run would have written."""

import os
import shutil
from pathlib import Path

import pytest
from commands import Osamd
from data_sets import run_batch, tree, write_boxes, write_photo, write_photos

from osamd.dataset.export import export
from osamd.dataset.planning import Prompts
from osamd.dataset.work import Part
from osamd.errors import InvalidRequestError

FORMATS = ["coco", "yolo", "labelme", "png"]


def outputs(folder: Path) -> dict[str, str]:
    """All files but the state."""
    return {name: content for name, content in tree(folder).items() if not name.startswith(".osamd")}


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    """Boxes in photos of which one is none, one has a name that is no text, and one is not in the data set."""
    photos = write_photos(tmp_path / "photos")
    boxes = write_boxes(tmp_path / "boxes.json", photos)
    write_photo(photos / "new.png", 200)
    os.rename(write_photo(photos / "bytes.png", 201), os.fsencode(photos) + b"/caf\xe9.png")  # noqa: PTH104
    return Prompts(boxes_from=str(boxes))


@pytest.mark.parametrize("is_from_parquet", [False, True])
def test_formats_are_as_the_run_would_have_written_them(
    tmp_path: Path,
    prompts: Prompts,
    osamd: Osamd,
    is_from_parquet: bool,  # noqa: FBT001
) -> None:
    """To the byte, failures too, and without the photos."""
    photos = tmp_path / "photos"
    run_batch(photos, tmp_path / "whole", prompts=prompts, formats=[*FORMATS, "parquet"])
    run_batch(photos, tmp_path / "out", prompts=prompts, formats=["parquet"])
    if is_from_parquet:
        shutil.rmtree(tmp_path / "out" / ".osamd")
        (tmp_path / "out" / "failures.csv").unlink()
    shutil.rmtree(photos)

    ended = osamd("batch", "export", str(tmp_path / "out"), "--format", ",".join(FORMATS))
    assert (0, True) == (ended.returncode, "7 photos, 1 failed; results in" in ended.err), ended.err
    assert outputs(tmp_path / "whole") == outputs(tmp_path / "out")


def test_ids_of_a_data_set_keep_their_type(tmp_path: Path) -> None:
    """Text stays text, digits or not."""
    photos = write_photos(tmp_path / "photos")
    boxes = write_boxes(tmp_path / "boxes.json", photos)
    boxes.write_text(boxes.read_text().replace('id": 67,', 'id": "67",'))
    prompts = Prompts(boxes_from=str(boxes))
    run_batch(photos, tmp_path / "whole", prompts=prompts, formats=["coco", "parquet"])
    run_batch(photos, tmp_path / "out", prompts=prompts, formats=["parquet"])
    shutil.rmtree(tmp_path / "out" / ".osamd")
    export(tmp_path / "out", ["coco"])
    assert '"id":"67"' in (tmp_path / "out" / "annotations.coco.json").read_text()
    assert outputs(tmp_path / "whole") == outputs(tmp_path / "out")


def test_what_is_not_whole_is_not_exported(tmp_path: Path, prompts: Prompts) -> None:
    """An empty folder, a run that is not finished, a lost file, files of two runs, a file that is something else."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    with pytest.raises(InvalidRequestError, match="holds no results of osamd batch"):
        export(tmp_path / "nowhere", ["coco"])
    run_batch(photos, out, prompts=prompts, formats=["parquet"], part=Part(0, 2))
    with pytest.raises(InvalidRequestError, match="not finished, 2 shards of 4 are left: continue it with"):
        export(out, ["coco"])
    run_batch(photos, out, prompts=prompts, formats=["parquet"])
    shutil.rmtree(out / ".osamd")
    run_batch(photos, tmp_path / "other", prompts=prompts, formats=["parquet"], shard_size=1)
    shutil.copy(tmp_path / "other" / "shards" / "00001.parquet", out / "shards")
    with pytest.raises(InvalidRequestError, match=r"00001\.parquet is of another run"):
        export(out, ["coco"])
    (out / "shards" / "00001.parquet").write_text("something else")
    with pytest.raises(InvalidRequestError, match=r"00001\.parquet: not a Parquet file"):
        export(out, ["coco"])
    (out / "shards" / "00001.parquet").unlink()
    with pytest.raises(InvalidRequestError, match=r"1 file of 4 missing, such as 00001\.parquet"):
        export(out, ["coco"])
    assert not (out / "annotations.coco.json").exists()
