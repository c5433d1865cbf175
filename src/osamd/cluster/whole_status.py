"""The status of a cluster, made of its Segmenters'."""

from collections.abc import Mapping

from osamd.cluster.outcomes import Part
from osamd.status import CacheStatus, EngineStatus, Resident, State


def whole_status(parts: Mapping[str, Part], *, own: State, is_missing: bool) -> EngineStatus:
    """One status of all Segmenters, with those of each.

    Args:
        parts: the Segmenters that run, by label.
        own: the edge's own state.
        is_missing: whether a Segmenter that should run does not.
    """
    statuses = {label: part.status for label, part in parts.items()}
    caches = [status.cache for status in statuses.values()]
    residents: dict[str, Resident] = {}
    for status in statuses.values():
        for resident in status.residents:
            residents.setdefault(resident.model.name, resident)
    return EngineStatus(
        state=_state([status.state for status in statuses.values()], own, is_missing=is_missing),
        lanes=(),
        cache=CacheStatus(
            sum(cache.entries for cache in caches),
            sum(cache.nbytes for cache in caches),
            sum(cache.capacity_bytes for cache in caches),
        ),
        residents=tuple(residents.values()),
        pulling=tuple(dict.fromkeys(name for status in statuses.values() for name in status.pulling)),
        parts=statuses,
    )


def _state(states: list[State], own: State, *, is_missing: bool) -> State:
    """Ready if each model that should have a Segmenter has one, and one is ready or all may be at zero."""
    if own != "ready":
        return own
    if is_missing or (states and "ready" not in states):
        return "stuck" if states and all(state == "stuck" for state in states) else "loading"
    return "ready"
