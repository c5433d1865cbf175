"""Models as CVAT's functions: interactors for clicks, detectors for the configured words."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from osamd.errors import InvalidRequestError, UnknownModelError, shown
from osamd.library.catalog import Model
from osamd.library.rows import DEFAULT_TAG
from osamd.settings import Settings

FUNCTION_HEADER: Final = "x-nuclio-function-name"
# CVAT's page answers clicks on this one itself, from an embedding.
RESERVED: Final = frozenset({"pth-facebookresearch-sam-vit-h"})


@dataclass(frozen=True, slots=True)
class Function:
    """A model as a function.

    Attributes:
        name: its id, of the characters that CVAT allows.
        model: the model.
        texts: the words that a detector looks for; empty for an interactor.
    """

    name: str
    model: Model
    texts: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """The function as nuclio's dashboard describes it."""
        annotations = {"name": self.model.name, "version": "2", "help_message": "", "animated_gif": ""}
        if self.texts:
            kind = "mask" if self.model.capabilities.masks else "rectangle"
            labels = [{"id": index, "name": text, "type": kind} for index, text in enumerate(self.texts)]
            annotations |= {"type": "detector", "spec": json.dumps(labels)}
            description = f"Finds {', '.join(self.texts)}."
        else:
            # Text, as nuclio has it, of which CVAT also takes "false" for true.
            optional = {"min_pos_points": "0", "min_neg_points": "0", "startswith_box_optional": "true"}
            annotations |= {"type": "interactor", "spec": "", **optional}
            description = "Points and a box into a mask."
        return {
            "metadata": {"name": self.name, "annotations": annotations},
            "spec": {"description": f"{description} Answered by osamd."},
            "status": {"state": "ready", "httpPort": 0},
        }


def functions(models: Iterable[Model], settings: Settings) -> Mapping[str, Function]:
    """The functions by id: detectors, if words are configured, and interactors of models that take points."""
    found: dict[str, Function] = {}
    for model in models:
        name = model.name.removesuffix(f":{DEFAULT_TAG}").replace(":", "-")
        can = model.capabilities
        texts = settings.cvat_texts if can.texts else ()
        if (can.points or texts) and name not in RESERVED:
            found.setdefault(name, Function(name, model, texts))
    return found


def function_named(name: str, models: Iterable[Model], settings: Settings) -> Function:
    """A function by its id.

    Raises:
        InvalidRequestError: there is no name.
        UnknownModelError: there is no such function.
    """
    if not name:
        raise InvalidRequestError(f"expected the header {FUNCTION_HEADER}, with the name of a function")
    function = functions(models, settings).get(name)
    if function is None:
        raise UnknownModelError(f"no function is named {shown(name)!r}", field=FUNCTION_HEADER)
    return function
