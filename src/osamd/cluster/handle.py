"""``Handle``: how an edge reaches Segmenters. Ray's handles fit behind it; tests use one without Ray."""

from collections.abc import AsyncIterator, Collection, Generator
from typing import Any, Protocol

from osamd.cluster.gathering import Gathered
from osamd.errors import OsamdError, OverloadedError
from osamd.plurals import counted

# The replacement of a Segmenter that died, or another one, answers soon.
LOST_RETRY_S = 0.5
SILENCE_RETRY_S = 5.0


class Call(Protocol):
    """A call in progress: await it, or cancel it. Ray's ``DeploymentResponse`` is one."""

    def __await__(self) -> Generator[Any, None, Any]:
        """The method's result."""

    def cancel(self) -> None:
        """Cancel the method where it runs."""


class Stream(Protocol):
    """A method's items as they come. Ray's ``DeploymentResponseGenerator`` is one."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """The items."""

    def cancel(self) -> None:
        """Cancel the method where it runs."""


class Handle(Protocol):
    """Calls methods of ``SegmenterService``. Arguments and results are pickled, functions by reference.

    Calls with the same key reach the same Segmenter, while the number of Segmenters stays the same.
    """

    def call(self, model: str, key: str, method: str, *args: Any) -> Call:
        """Call a method of one of a model's Segmenters; may wait until one has started.

        Args:
            model: full name of any model; the first one's Segmenters answer for those without their own.
            key: what the Segmenter is chosen by.
            method: name of the method.
            args: its arguments.
        """

    def stream(self, model: str, key: str, method: str, *args: Any) -> Stream:
        """The same for a method that yields items."""

    async def everywhere(self, method: str, *args: Any, model: str | None = None) -> Gathered:
        """Call a method of every Segmenter that runs now, of a model or of all.

        Starts none, but counts as load, which keeps them running.
        """

    async def missing(self) -> Collection[str]:
        """Models that should have a Segmenter now and have none; not those that may be at zero. Asks no Segmenter."""

    def failure(self, error: Exception) -> OsamdError | None:
        """What the transport's own exception means to callers: ``busy``, ``lost``, or None for a bug."""


def busy(retry_after_s: float | None = None) -> OverloadedError:
    """The error for a call that found the queue of its Segmenters full."""
    return OverloadedError("all Segmenters of this model are busy", retry_after_s=retry_after_s)


def silence(count: int) -> OverloadedError:
    """The error when some Segmenters did not do what all must do."""
    return OverloadedError(f"{counted(count, 'Segmenter')} did not answer: try again", retry_after_s=SILENCE_RETRY_S)


def lost() -> OverloadedError:
    """The error for a call whose Segmenter died or was stopped."""
    return OverloadedError("the Segmenter that worked on this has stopped: try again", retry_after_s=LOST_RETRY_S)
