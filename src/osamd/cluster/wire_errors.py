"""Errors as values: raised across Ray, they would be logged with a traceback and arrive wrapped."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from osamd.errors import InferenceError, OsamdError


@dataclass(frozen=True, slots=True)
class WireError:
    """An ``OsamdError`` in transit.

    Attributes:
        kind: name of its class.
        message: its text, which may name paths: only ``public_message`` is shown to callers.
        field: as in ``OsamdError``.
        retry_after_s: as in ``OsamdError``.
    """

    kind: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None


def to_wire(error: OsamdError) -> WireError:
    """The error as a value."""
    return WireError(type(error).__name__, str(error), error.field, error.retry_after_s)


def from_wire(wire: WireError) -> OsamdError:
    """The error again; of a class that only a newer osamd has, an ``InferenceError``."""
    kind = _kinds().get(wire.kind, InferenceError)
    return kind(wire.message, field=wire.field, retry_after_s=wire.retry_after_s)


@cache
def _kinds() -> Mapping[str, type[OsamdError]]:
    return {kind.__name__: kind for kind in _below(OsamdError)}


def _below(kind: type[OsamdError]) -> Iterator[type[OsamdError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _below(narrower)
