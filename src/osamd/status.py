"""The state of the engine and the server at one moment, for health checks and metrics."""

from dataclasses import dataclass
from typing import Literal

from osamd.library.catalog import Model

State = Literal["ready", "loading", "stopping", "stuck"]


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane.

    Attributes:
        name: such as ``encode``.
        waiting: jobs in its queue.
        capacity: how many may wait.
        running: jobs on its workers.
        hung: abandoned workers whose jobs do not end.
    """

    name: str
    waiting: int
    capacity: int
    running: int
    hung: int


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What is remembered of images.

    Attributes:
        entries: embeddings.
        nbytes: their memory.
        capacity_bytes: how much they may have.
    """

    entries: int
    nbytes: int
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """The memory of masks and replies.

    Attributes:
        held: bytes that requests hold.
        capacity: bytes that they may hold together.
        waiting: requests that wait for some.
        refused: requests that were refused some so far.
    """

    held: int
    capacity: int
    waiting: int
    refused: int


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model.

    Attributes:
        model: its row.
        device: where it runs.
        nbytes: size of its files.
        expires_in_s: seconds until it is unloaded if nobody uses it; PINNED or None as in ``KeepAlive``.
    """

    model: Model
    device: str
    nbytes: int
    expires_in_s: float | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """All of these.

    Attributes:
        state: ``ready`` when the configured models are loaded and warm, ``loading`` before, ``stopping``, or ``stuck``
            when only a restart helps.
        lanes: in the order of a request.
        cache: of embeddings.
        residents: loaded models.
        pulling: names of models on their way here.
        masks: memory of masks and replies; None for an engine without a server.
    """

    state: State
    lanes: tuple[LaneStatus, ...]
    cache: CacheStatus
    residents: tuple[Resident, ...]
    pulling: tuple[str, ...]
    masks: MemoryStatus | None = None
