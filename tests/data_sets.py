"""Small data sets and answers without a model, for tests of ``osamd.dataset``."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from osamd.dataset.answers import Answers, Found
from osamd.dataset.formats import make_format
from osamd.dataset.planning import Prompts, make_plan
from osamd.dataset.rows import counts_of
from osamd.dataset.run import Outcome, open_manifest, run
from osamd.dataset.work import InProcess, Part
from osamd.pixels.images import upright_size
from osamd.pixels.masks import mask_from_array

ALL_FORMATS = ("coco", "yolo", "labelme", "png", "parquet", "review")
SHARD_SIZE = 2
WIDTH, HEIGHT = 48, 32
Inside = npt.NDArray[np.bool_]
Open = Callable[[], contextlib.AbstractContextManager[Answers]]


def ring_and_dot(height: int = HEIGHT, width: int = WIDTH) -> Inside:
    """A mask with a hole and a second part."""
    inside = np.zeros((height, width), np.bool_)
    inside[4:20, 6:26] = True
    inside[9:14, 11:20] = False
    inside[height - 5 : height - 2, width - 9 : width - 3] = True
    return inside


def block(height: int = HEIGHT, width: int = WIDTH) -> Inside:
    """A mask in one piece."""
    inside = np.zeros((height, width), np.bool_)
    inside[5:25, 8:30] = True
    inside[10:15, 30:35] = True
    return inside


class PlainAnswers:
    """Answers every second prompt with a ring and a dot, the others with a block; scores come from the photo.

    Args:
        log: a file that gets a line for each photo that is asked about.
        masks: of the prompts, in turn.
    """

    def __init__(self, log: Path | None = None, masks: Sequence[Inside] | None = None) -> None:
        self._log = log
        self._masks = masks
        self._lock = threading.Lock()

    def __call__(self, data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Found]:
        """The objects."""
        if self._log is not None:
            with self._lock, self._log.open("a") as file:
                file.write(f"{hashlib.sha256(data).hexdigest()}\n")
        height, width = upright_size(data, max_pixels=10**9)
        masks = self._masks or (ring_and_dot(height, width), block(height, width))
        found = []
        for index, prompt in enumerate(prompts):
            mask = mask_from_array(masks[index % len(masks)], offset=(0, 0), height=height, width=width)
            if mask is None:
                continue
            score = hashlib.sha256(data + bytes([index])).digest()[0] / 256
            text = prompt["texts"][0] if "texts" in prompt else None
            found.append(Found(index, text, score, counts_of(mask)))
        return found

    @contextlib.contextmanager
    def opened(self) -> Iterator[Answers]:
        """As ``run`` opens answers."""
        yield self


class NotingAnswers:
    """Finds nothing.

    Attributes:
        asked: the prompts of each photo.
    """

    def __init__(self) -> None:
        self.asked: list[list[Mapping[str, Any]]] = []

    def __call__(self, data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Found]:  # noqa: ARG002
        """Nothing."""
        self.asked.append(list(prompts))
        return []


def write_photo(path: Path, shade: int = 0, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A small photo; each shade is another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 255 - shade, 90)).save(path)
    return path


def write_photos(folder: Path, count: int = 4) -> Path:
    """Photos in two folders, and a file that is none."""
    for number in range(count):
        write_photo(folder / ("sub" if number % 2 else "") / f"photo{number}.png", number)
    (folder / "broken.jpg").write_text("no image")
    return folder


def write_boxes(path: Path, photos: Path) -> Path:
    """COCO JSON with two boxes in each photo, with ids that are not counted from 1."""
    names = sorted(str(file.relative_to(photos)) for file in photos.rglob("*") if file.is_file())
    images = [
        {"id": 70 - 3 * number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(names)
    ]
    annotations = [
        {"id": 2 * number + second, "image_id": image["id"], "category_id": category, "bbox": bbox, "iscrowd": 0}
        for number, image in enumerate(images)
        for second, (category, bbox) in enumerate([(9, [6, 4, 20, 16]), (4, [8, 5, 27, 20])])
    ]
    categories = [{"id": 9, "name": "ring & dot", "supercategory": "shapes"}, {"id": 4, "name": "block"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def run_batch(
    photos: Path | Sequence[str],
    out: Path,
    *,
    prompts: Prompts,
    answers: Open | None = None,
    formats: Sequence[str] = ALL_FORMATS,
    part: Part = Part(),  # noqa: B008 - frozen
    stop: threading.Event | None = None,
    at_once: int = 2,
    shard_size: int = SHARD_SIZE,
) -> Outcome:
    """Plan and run as ``osamd batch`` does."""
    inputs = [str(photos)] if isinstance(photos, Path) else photos
    plan = make_plan(inputs, prompts, model="none", digest="", shard_size=shard_size)
    manifest = open_manifest(out, plan)
    return run(
        manifest,
        out,
        formats={name: make_format(name, out, manifest.header) for name in formats},
        workers=InProcess(answers or PlainAnswers().opened, at_once=at_once),
        stop=stop or threading.Event(),
        part=part,
    )


def tree(folder: Path) -> dict[str, str]:
    """Every file's hash, every link's target and every folder, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            content = f"-> {os.readlink(path)}"  # noqa: PTH115 - text, not a path
        elif path.is_dir():
            content = "folder"
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = content
    return found
