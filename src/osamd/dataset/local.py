"""The engine of a run in this process."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from osamd.dataset.answers import Answers, LocalAnswers
from osamd.dataset.plan import Header
from osamd.errors import InvalidRequestError
from osamd.library.catalog import Model
from osamd.library.library import Library, open_library
from osamd.settings import Device, load_settings

# Each inference has working memory of its own, gigabytes for the largest models.
MOST_PARALLEL: Final = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the model of one process runs.

    Attributes:
        device: None means that of the settings.
        threads: cores to use; None means those of the settings, or all.
    """

    device: Device | None = None
    threads: int | None = None


def checked_model(header: Header, library: Library) -> Model:
    """The model of a run.

    Raises:
        UnknownModelError: there is no such model.
        InvalidRequestError: its files are not those that the run began with.
    """
    model = library.resolve(header.model)
    if header.digest and model.digest != header.digest:
        raise InvalidRequestError(
            f"the files of {model.name} are not those that this run began with: use another --out"
        )
    return model


@contextlib.contextmanager
def local_answers(
    header: Header, machine: Machine, *, prepare: Callable[[Model, Library], None] | None = None
) -> Iterator[Answers]:
    """Answers of a model in this process.

    Args:
        header: of the run.
        machine: where it runs.
        prepare: called before it is loaded, such as to pull it and say so; without it, it is pulled silently.

    Raises:
        OsamdError: the model cannot be pulled or loaded, or is not that of the run.
    """
    from osamd.batch import Segmenter
    from osamd.runtime.container import cpu_count
    from osamd.runtime.sessions import CPU, choose_placement

    settings = load_settings()
    library = open_library(settings)
    model = checked_model(header, library)
    if prepare is not None:
        prepare(model, library)
    device = machine.device or settings.device
    cores = machine.threads or settings.threads or cpu_count()
    placement = choose_placement(device=device, onnx_providers=settings.onnx_providers, threads=cores)
    parallel = min(cores, MOST_PARALLEL) if placement.providers == (CPU,) else 1
    with Segmenter(header.model, device=device, threads=max(1, cores // parallel), parallel=parallel) as segmenter:
        yield LocalAnswers(segmenter)
