"""Photos whose objects people outlined: some of COCO 2017 (Lin et al., 2014), whose licences are free.

``python -m training.coco FOLDER OBJECTS`` writes others of them for ``training.evaluate``. Both lists are in
``coco-photos.json``: each photo's digest and which of its outlines are used, and digests of all licences and outlines.
"""

import argparse
import hashlib
import json
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as run_lengths
from tqdm import tqdm

from training.library import Found
from training.outlines import MOST_REGIONS, pack

BoolArray = npt.NDArray[np.bool_]
# A photo's entry among COCO's annotations, and the polygons of each of its objects.
Outlined = tuple[Mapping[str, Any], list[list[list[float]]]]

NAME: Final = "coco"
SOURCE: Final = "http://images.cocodataset.org"
ANNOTATIONS: Final = f"{SOURCE}/annotations/annotations_trainval2017.zip"
SPLITS: Final = ("train2017", "val2017")
LIST: Final = Path(__file__).with_name("coco-photos.json")
# Of the dataset's licences, by its number; the others forbid commercial use or changes.
FREE: Final = {
    4: "CC-BY-2.0",
    5: "CC-BY-SA-2.0",
    7: "no known copyright restrictions",
    8: "United States Government work",
}
LEARNED, MEASURED = "learned", "measured"
# Shares of the photo: specks are outlined badly, and what is larger is no object.
AREA: Final = (0.005, 0.7)
# Of each photo to measure with, chosen at random.
MOST_MEASURED: Final = 2
TIMEOUT_S: Final = 60
NOTICE: Final = """Photos of COCO 2017 (https://cocodataset.org) that the built-in network was trained and validated on.

Outlines of their objects: COCO Consortium, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), drawn as masks;
specks, crowds, and outlines that were not at hand were left out. Photos, of which pieces were used, some with other
pictures pasted onto them, each with its licence and its page on Flickr, which names the photographer and the title:

CC-BY-2.0: https://creativecommons.org/licenses/by/2.0/
CC-BY-SA-2.0: https://creativecommons.org/licenses/by-sa/2.0/
no known copyright restrictions: https://www.flickr.com/commons/usage/

"""


@dataclass(frozen=True)
class Photo:
    """A photo of COCO with the outlines of its objects.

    Attributes:
        path: the file.
        name: its number with leading zeros.
        licence: one of ``FREE`` or another one.
        page: its page on Flickr.
        outlines: (h, w) bool of each object of a size in ``AREA``, the largest first.
    """

    path: Path
    name: str
    licence: str
    page: str
    outlines: Sequence[BoolArray]


def pictures(folder: Path, notices: Path) -> tuple[list[Found], dict[str, object]]:
    """Photos and their packed outlines, downloaded unless they are here; and a row of the manifest.

    Args:
        folder: where downloads are kept.
        notices: gets a file that says whose photos they are.

    Raises:
        RuntimeError: a photo is another one than was trained on, or is not free.
    """
    photos = [photo for photo in _photos(folder, LEARNED) if photo.outlines]
    for photo in photos:
        if photo.licence not in FREE.values():
            raise RuntimeError(f"{photo.name}: not a free licence: {photo.licence}")
    lines = [f"{photo.name}  {photo.licence}  {photo.page}\n" for photo in photos]
    (notices / f"{NAME}.txt").write_text(NOTICE + "".join(lines))
    found = []
    for photo in photos:
        pixels = cv2.cvtColor(np.asarray(cv2.imread(str(photo.path))), cv2.COLOR_BGR2RGB)
        found.append(Found("scene", NAME, photo.name, np.asarray(pixels, np.uint8)))
        found.append(Found("objects", NAME, photo.name, pack(photo.outlines[:MOST_REGIONS])))
    count = sum(len(photo.outlines[:MOST_REGIONS]) for photo in photos)
    row: dict[str, object] = {
        "package": NAME,
        "version": "2017",
        "licence": ", ".join(sorted({photo.licence for photo in photos})),
        "from": "cocodataset.org",
        "taken": {"scene": len(photos), "objects": count},
        "left out": {},
    }
    return found, row


def download(folder: Path) -> None:
    """Download all photos to learn from, and their outlines, unless they are here.

    Raises:
        RuntimeError: they are others than were trained on.
    """
    for _ in _photos(folder, LEARNED):
        pass


def write_measured(folder: Path, objects: Path) -> int:
    """Write photos that are only measured with, and masks of up to two objects of each; says how many objects."""
    for name in ("images", "masks"):
        (objects / name).mkdir(parents=True, exist_ok=True)
    count = 0
    for photo in _photos(folder, MEASURED):
        rng = np.random.default_rng(int(photo.name))
        chosen = rng.permutation(len(photo.outlines))[:MOST_MEASURED]
        if len(chosen):
            shutil.copyfile(photo.path, objects / "images" / f"{photo.name}.jpg")
        for number, index in enumerate(chosen):
            mask = photo.outlines[index].astype(np.uint8) * 255
            cv2.imwrite(str(objects / "masks" / f"{photo.name}_{number}.png"), mask)
        count += len(chosen)
    return count


def _photos(folder: Path, use: str) -> Iterator[Photo]:
    listed: Mapping[str, Any] = json.loads(LIST.read_text())
    kept = folder / "coco"
    for split in SPLITS:
        outlined = _outlined(kept, split, listed)
        for name, entry in tqdm(listed[use][split].items(), desc=f"{split}, {use}"):
            path = kept / split / f"{name}.jpg"
            _download(f"{SOURCE}/{split}/{name}.jpg", path)
            if hashlib.sha256(path.read_bytes()).hexdigest() != entry["photo"]:
                raise RuntimeError(f"{path} is not the photo that was trained on: remove it and try again")
            image, outlines = outlined[int(name)]
            licence = FREE.get(image["license"], f"COCO's licence {image['license']}")
            masks = [_drawn(polygons, image["height"], image["width"]) for polygons in outlines]
            masks = [mask for mask in masks if AREA[0] <= mask.mean() <= AREA[1]]
            masks.sort(key=lambda mask: -int(mask.sum()))
            # The name of the file on Flickr begins with the photo's number.
            page = f"https://www.flickr.com/photo.gne?id={image['flickr_url'].rpartition('/')[2].partition('_')[0]}"
            yield Photo(path, name, licence, page, masks)


def _outlined(kept: Path, split: str, listed: Mapping[str, Any]) -> dict[int, Outlined]:
    """Each listed photo's entry and the polygons of its listed outlines, by the photo's number.

    They are kept in a file of their own: to read the archive takes 2 GB of memory.
    """
    path = kept / f"instances_{split}.json"
    photos = {int(name): entry for use in (LEARNED, MEASURED) for name, entry in listed[use][split].items()}
    chosen = {number for entry in photos.values() for number in entry["outlines"]}
    if not path.exists():
        archive = kept / "annotations.zip"
        _download(ANNOTATIONS, archive)
        with zipfile.ZipFile(archive) as files, files.open(f"annotations/{path.name}") as file:
            found = json.load(file)
        images = [item for item in found["images"] if item["id"] in photos]
        outlines = [item for item in found["annotations"] if item["id"] in chosen]
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"images": images, "annotations": outlines}))
        partial.replace(path)
    kept_ones = json.loads(path.read_text())
    outlined: dict[int, Outlined] = {image["id"]: (image, []) for image in kept_ones["images"]}
    for item in sorted(kept_ones["annotations"], key=lambda item: int(item["id"])):
        # A file of an earlier list may have others, too.
        if item["id"] in chosen:
            outlined[item["image_id"]][1].append(item["segmentation"])
    if _digest(outlined) != listed["outlines"][split]:
        path.unlink()
        raise RuntimeError(f"{path} had other licences or outlines than were trained on: it was removed, try again")
    return outlined


def _digest(outlined: Mapping[int, Outlined]) -> str:
    """Of what is used of the annotations. Copies differ in whether they write 288 or 288.0."""
    used = []
    for number, (image, objects) in sorted(outlined.items()):
        places = [[[float(place) for place in polygon] for polygon in polygons] for polygons in objects]
        used.append((number, image["license"], image["flickr_url"], image["height"], image["width"], *places))
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()


def _drawn(polygons: Sequence[Sequence[float]], height: int, width: int) -> BoolArray:
    return np.asarray(run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(polygons, height, width)))) > 0


def _download(address: str, path: Path) -> None:
    """Download a file unless it is here."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # This site alone; whatever is used of it has a digest.
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, partial.open("wb") as file:  # noqa: S310
        shutil.copyfileobj(answer, file)
    partial.replace(path)


def main() -> None:
    """Write objects to measure with."""
    parser = argparse.ArgumentParser(description="Objects of COCO's photos for training.evaluate.")
    parser.add_argument("folder", type=Path, help="where downloads are kept")
    parser.add_argument("objects", type=Path, help="gets images/ and masks/")
    arguments = parser.parse_args()
    print(write_measured(arguments.folder, arguments.objects), "objects")


if __name__ == "__main__":
    main()
