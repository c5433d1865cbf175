"""The status of a cluster, made of its Segmenters'."""

from collections.abc import Iterable
from typing import Final

from osamd.status import CacheStatus, EngineStatus, Resident, State

# Ray's words for a deployment that has as many Segmenters as it should, or is on its way there by itself.
SETTLED: Final = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})


def whole_status(statuses: Iterable[EngineStatus], state: State) -> EngineStatus:
    """One status of all Segmenters.

    Args:
        statuses: of the Segmenters that answered; none for an edge's own status.
        state: of the cluster, as the edge knows it.
    """
    statuses = list(statuses)
    caches = [status.cache for status in statuses]
    residents: dict[str, Resident] = {}
    for status in statuses:
        for resident in status.residents:
            residents.setdefault(resident.model.name, resident)
    return EngineStatus(
        state=state,
        lanes=(),
        cache=CacheStatus(
            sum(cache.entries for cache in caches),
            sum(cache.nbytes for cache in caches),
            sum(cache.capacity_bytes for cache in caches),
        ),
        residents=tuple(residents.values()),
        pulling=tuple(dict.fromkeys(name for status in statuses for name in status.pulling)),
    )


def is_missing(status: str, running: int) -> bool:
    """Whether a deployment should have a Segmenter and has none; false while it is, or was until now, at zero.

    Args:
        status: Ray's word for its state.
        running: its Segmenters that run.
    """
    return not running and status not in SETTLED
