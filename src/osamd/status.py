"""A snapshot of the engine's and the server's state, for health checks and metrics."""

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
        capacity: limit of waiting jobs.
        running: jobs on its workers.
        hung: abandoned workers with hung jobs.
    """

    name: str
    waiting: int
    capacity: int
    running: int
    hung: int


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """The embedding cache.

    Attributes:
        entries: number of embeddings.
        nbytes: bytes in use.
        capacity_bytes: limit.
    """

    entries: int
    nbytes: int
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """The memory budget of masks and replies.

    Attributes:
        held: bytes reserved by requests.
        capacity: limit in bytes.
        waiting: requests waiting for memory.
        refused: requests rejected so far for lack of memory.
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
        expires_in_s: seconds until it is unloaded if unused; PINNED or None as in ``KeepAlive``.
    """

    model: Model
    device: str
    nbytes: int
    expires_in_s: float | None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The whole snapshot.

    Attributes:
        state: ``ready`` when the configured models are loaded and warm, ``loading`` before, ``stopping``, or ``stuck``
            when only a restart helps.
        lanes: in the order of a request.
        cache: of embeddings.
        residents: loaded models.
        pulling: names of models that are being pulled.
        masks: memory budget of masks and replies; None for an engine without a server.
    """

    state: State
    lanes: tuple[LaneStatus, ...]
    cache: CacheStatus
    residents: tuple[Resident, ...]
    pulling: tuple[str, ...]
    masks: MemoryStatus | None = None
