"""Adapters: one module per family, imported on first use."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from osamd.errors import ModelUnavailableError
from osamd.library.catalog import Model
from osamd.library.families import FAMILIES
from osamd.models.base import Adapter

if TYPE_CHECKING:
    # For types only: the engine imports this package and must not load ONNX Runtime before the first model.
    from osamd.runtime.sessions import Placement


def build_model(model: Model, paths: dict[str, Path], placement: "Placement") -> Adapter:
    """Load a model: its family's adapter, with its blobs.

    Args:
        model: the row of the catalogue.
        paths: its files by role.
        placement: where its sessions run.

    Raises:
        ModelLoadError: a file failed to load.
        ModelUnavailableError: no adapter for this family.
    """
    if model.family not in FAMILIES:
        raise ModelUnavailableError(f"cannot run {model.name}: no adapter for the family {model.family!r}")
    module, name = FAMILIES[model.family].adapter
    adapter: Adapter = getattr(import_module(module), name)(paths, placement)
    return adapter
