"""Boxes from a COCO JSON file (Lin et al., 2014; the format is described on cocodataset.org)."""

import json
from pathlib import Path
from typing import Any

from osamd.dataset.plan import Category, ImageId, Target
from osamd.dataset.prompts.boxes import KnownBoxes
from osamd.errors import InvalidRequestError


def read_coco(path: Path) -> KnownBoxes:
    """Read the boxes of ``annotations``; crowds are skipped, since they are not one object.

    Images are looked for relative to the file's folder.

    Raises:
        InvalidRequestError: it is not COCO JSON; the message names what is missing.
        OSError: it cannot be read.
    """
    from osamd.dataset.inputs import name_of

    try:
        content = json.loads(path.read_bytes())
        categories = sorted((_category(one) for one in content["categories"]), key=lambda one: one.id)
        names = {
            image["id"]: name_of(str(path.parent / image["file_name"]), str(path.parent)) for image in content["images"]
        }
        files = {
            name: str((path.parent / image["file_name"]).absolute())
            for image, name in zip(content["images"], names.values(), strict=True)
        }
        targets: dict[str, list[Target]] = {name: [] for name in names.values()}
        known = {one.id for one in categories}
        for annotation in content["annotations"]:
            if annotation.get("iscrowd"):
                continue
            if annotation["category_id"] not in known:
                raise InvalidRequestError(f"{path}: no category has the id {annotation['category_id']!r}")
            targets[names[annotation["image_id"]]].append(_target(annotation))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError(
            f"{path}: expected COCO JSON with images, annotations with bbox, and categories"
            f" ({type(error).__name__}: {error})"
        ) from None
    if len(targets) != len(names):
        raise InvalidRequestError(f"{path}: two images have one file_name")
    ids: dict[str, ImageId] = {name: image_id for image_id, name in names.items()}
    frozen = {name: tuple(found) for name, found in targets.items()}
    return KnownBoxes(tuple(categories), frozen.get, ids, dict(sorted(files.items())))


def _category(one: dict[str, Any]) -> Category:
    return Category(int(one["id"]), str(one["name"]), str(one.get("supercategory") or ""))


def _target(annotation: dict[str, Any]) -> Target:
    x, y, width, height = (float(side) for side in annotation["bbox"])
    # COCO counts from a pixel's corner and we from its centre: a box of one pixel has the width 1 there and 0 here.
    return Target(annotation["category_id"], box=(x, y, x + max(0.0, width - 1), y + max(0.0, height - 1)))
