"""Adapters: one module a family, loaded when first asked for."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from osamd.errors import ModelUnavailableError
from osamd.library.catalog import Model
from osamd.library.families import FAMILIES
from osamd.models.base import Adapter

if TYPE_CHECKING:
    # Only its type: the engine imports this package, and must not wait for ONNX Runtime before the first model.
    from osamd.runtime.sessions import Placement


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
    module, name = FAMILIES[model.family].adapter
    adapter: Adapter = getattr(import_module(module), name)(paths, placement)
    return adapter
