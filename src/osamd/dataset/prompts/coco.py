"""Boxes from a COCO JSON file (Lin et al., 2014; the format is described on cocodataset.org)."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from osamd.dataset.plan import Category, ImageId, Target
from osamd.dataset.prompts.boxes import KnownBoxes
from osamd.dataset.prompts.coordinates import MOST_PIXELS
from osamd.errors import InvalidRequestError
from osamd.wire.fields import AS_NUMBER, AS_WHOLE_NUMBER
from osamd.wire.pieces import as_utf8
from osamd.wire.validation_errors import invalid_request

Id = Annotated[int, AS_WHOLE_NUMBER]
Pixels = Annotated[float, Field(ge=-MOST_PIXELS, le=MOST_PIXELS), AS_NUMBER]
Bbox = Annotated[list[Pixels], Field(min_length=4, max_length=4, fail_fast=True)]
EXPECTED: Final = "expected COCO JSON with images, categories, and annotations that have a bbox"


class _Object(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Image(_Object):
    id: StrictInt | StrictStr
    file_name: StrictStr


class _Category(_Object):
    id: Id
    name: Annotated[str, Field(coerce_numbers_to_str=True)]
    supercategory: StrictStr | None = None


class _Annotation(_Object):
    image_id: StrictInt | StrictStr
    category_id: Id
    bbox: Bbox | None = None
    iscrowd: bool | None = None


class _File(_Object):
    images: list[_Image] = Field(fail_fast=True)
    categories: list[_Category] = Field(fail_fast=True)
    annotations: list[_Annotation] = Field(fail_fast=True)


def read_coco(path: Path) -> KnownBoxes:
    """Read the boxes of ``annotations``; crowds are skipped, since they are not one object.

    Images are looked for relative to the file's folder.

    Raises:
        InvalidRequestError: it is not COCO JSON; the message says where, and what was expected.
        OSError: it cannot be read.
    """
    from osamd.dataset.inputs import name_of

    content = _parsed(path)
    categories = sorted(
        (Category(one.id, one.name, one.supercategory or "") for one in content.categories), key=lambda one: one.id
    )
    names = {image.id: name_of(str(path.parent / image.file_name), str(path.parent)) for image in content.images}
    if len(set(names.values())) < len(content.images):
        raise InvalidRequestError(f"{path}: two images have the same id or file_name")
    targets: dict[str, list[Target]] = {name: [] for name in names.values()}
    known = {one.id for one in categories}
    for index, annotation in enumerate(content.annotations):
        if annotation.iscrowd:
            continue
        where = f"{path}: annotations[{index}]"
        if annotation.category_id not in known:
            raise InvalidRequestError(f"{where}.category_id: no category has the id {annotation.category_id}")
        if annotation.image_id not in names:
            raise InvalidRequestError(f"{where}.image_id: no image has the id {annotation.image_id!r}")
        if annotation.bbox is None:
            raise InvalidRequestError(f"{where}.bbox: expected x, y, width and height")
        targets[names[annotation.image_id]].append(_target(annotation.category_id, annotation.bbox))
    ids: dict[str, ImageId] = {name: image_id for image_id, name in names.items()}
    files = {names[image.id]: str((path.parent / image.file_name).absolute()) for image in content.images}
    frozen = {name: tuple(found) for name, found in targets.items()}
    return KnownBoxes(tuple(categories), frozen.get, ids, dict(sorted(files.items())))


def _parsed(path: Path) -> _File:
    try:
        raw, start = as_utf8(path.read_bytes())
        return _File.model_validate_json(raw[start:])
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path}: not JSON: not UTF-8; {EXPECTED}") from None
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        reason = problems[0]["msg"].removeprefix("Invalid JSON: ")
        raise InvalidRequestError(f"{path}: not JSON: {reason}; {EXPECTED}")
    if problems[0]["type"] == "missing":
        problems[0]["msg"] = "missing"
    raise InvalidRequestError(f"{path}: {invalid_request(problems)}; {EXPECTED}")


def _target(category: int, bbox: list[float]) -> Target:
    x, y, width, height = bbox
    # COCO counts from a pixel's corner and we from its centre: a box of one pixel has the width 1 there and 0 here.
    return Target(category, box=(x, y, x + max(0.0, width - 1), y + max(0.0, height - 1)))
