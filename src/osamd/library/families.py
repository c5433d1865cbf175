"""The model families: files, adapter and capabilities of each. The only place that lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from osamd.types import Capabilities

MOST_TEXTS: Final = 64
MOST_BOXES: Final = 64


@dataclass(frozen=True, slots=True)
class Family:
    """A model family.

    Attributes:
        roles: the ONNX files its adapter needs, by role.
        adapter: module and class of the adapter, imported when its first model is loaded.
        capabilities: which prompts it takes and what it returns.
    """

    roles: tuple[str, ...]
    adapter: tuple[str, str]
    capabilities: Capabilities


FAMILIES: Final[Mapping[str, Family]] = {
    "builtin": Family(
        ("encoder", "decoder"),
        ("osamd.models.builtin", "Builtin"),
        Capabilities(points=True, boxes=1, mask_input=True, multimask=True),
    ),
    "sam": Family(
        ("encoder", "decoder"),
        ("osamd.models.sam", "Sam"),
        Capabilities(points=True, boxes=1, mask_input=True),
    ),
    "sam2": Family(
        ("encoder", "decoder"),
        ("osamd.models.sam2", "Sam2"),
        Capabilities(points=True, boxes=1, mask_input=True, multimask=True),
    ),
    "sam3": Family(
        ("image_encoder", "language_encoder", "decoder"),
        ("osamd.models.sam3", "Sam3"),
        Capabilities(boxes=MOST_BOXES, texts=MOST_TEXTS),
    ),
    "efficientsam": Family(
        ("encoder", "decoder"),
        ("osamd.models.efficientsam", "EfficientSam"),
        Capabilities(points=True, boxes=1, multimask=True),
    ),
    "yoloworld": Family(
        ("textual", "yolo"),
        ("osamd.models.yoloworld", "YoloWorld"),
        Capabilities(texts=MOST_TEXTS, masks=False),
    ),
}


def capabilities_of(family: str) -> Capabilities:
    """The capabilities of a family, without importing its adapter.

    An export may have fewer boxes than its family allows; see the loaded model's own capabilities.

    Args:
        family: a key of ``FAMILIES``.
    """
    return FAMILIES[family].capabilities
