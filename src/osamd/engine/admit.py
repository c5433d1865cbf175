"""Callbacks by which the engine's caller may refuse requests. The engine itself has no policy."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from osamd.library.catalog import Model


def _anything(*_: object) -> None:
    """Refuses nothing."""


async def _any_model(_: Model) -> None:
    """Refuses no model."""


async def _all(nbytes: int) -> int:
    """Grants whatever is requested."""
    return nbytes


@dataclass(frozen=True, slots=True)
class Admit:
    """Callbacks on the event loop; each refuses a request by raising an ``OsamdError``.

    Attributes:
        model: called with the model before it is pulled, loaded or used; may wait, for example for a disk.
        encode: called before an image is encoded, so not for known images.
        masks: called before masks are created, with the bytes they need; may wait, and returns the bytes granted.
    """

    model: Callable[[Model], Awaitable[None]] = _any_model
    encode: Callable[[], None] = _anything
    masks: Callable[[int], Awaitable[int]] = _all


EVERYTHING = Admit()
