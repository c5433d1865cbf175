"""What the engine's caller may refuse while a request is answered. The engine itself has no policy."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from osamd.library.catalog import Model


def _anything(*_: object) -> None:
    """Refuses nothing."""


async def _any_model(_: Model) -> None:
    """Refuses no model."""


async def _all(nbytes: int) -> int:
    """Grants whatever is asked for."""
    return nbytes


@dataclass(frozen=True, slots=True)
class Admit:
    """Callbacks on the event loop; each refuses by raising an error of the tree, which the request then fails with.

    Attributes:
        model: called with the model before it is pulled, loaded or used; may wait, as for a disk.
        encode: called before an image is encoded; known images are not.
        masks: called before masks are made, with the bytes they may take; may wait, and returns how many they get.
    """

    model: Callable[[Model], Awaitable[None]] = _any_model
    encode: Callable[[], None] = _anything
    masks: Callable[[int], Awaitable[int]] = _all


EVERYTHING = Admit()
