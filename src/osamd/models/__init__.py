"""Adapters: one module a family, loaded when first asked for."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from osamd.errors import ModelUnavailableError
from osamd.library.catalog import Model
from osamd.models.base import Adapter
from osamd.types import Capabilities

if TYPE_CHECKING:
    # Only its type: the engine imports this package, and must not wait for ONNX Runtime before the first model.
    from osamd.runtime.sessions import Placement

FAMILIES = {
    "builtin": ("osamd.models.builtin", "Builtin"),
    "efficientsam": ("osamd.models.efficientsam", "EfficientSam"),
    "sam": ("osamd.models.sam", "Sam"),
    "sam2": ("osamd.models.sam2", "Sam2"),
    "sam3": ("osamd.models.sam3", "Sam3"),
    "yoloworld": ("osamd.models.yoloworld", "YoloWorld"),
}


def capabilities_of(family: str) -> Capabilities:
    """What a family takes and gives, without loading any of its models."""
    module, name = FAMILIES[family]
    capabilities: Capabilities = getattr(import_module(module), name).capabilities
    return capabilities


def build_model(model: Model, paths: dict[str, Path], placement: "Placement") -> Adapter:
    """Load a model: its family's adapter over its blobs.

    Args:
        model: the row of the catalogue.
        paths: its files by role.
        placement: where its sessions run.

    Raises:
        ModelLoadError: a file does not load.
        ModelUnavailableError: no adapter for this family.
    """
    if model.family not in FAMILIES:
        raise ModelUnavailableError(f"{model.name} cannot run here: no adapter for the family {model.family!r}")
    module, name = FAMILIES[model.family]
    adapter: Adapter = getattr(import_module(module), name)(paths, placement)
    return adapter
