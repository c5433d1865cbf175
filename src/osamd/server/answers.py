"""``Answers``: what routes and doors need of the thing that segments, wherever it runs.

``LocalAnswers`` (``local_answers.py``) is an engine in this process. ``osamd.cluster.remote_answers`` asks Segmenters
in other processes; ``create_app(settings, answers=...)`` takes either.

- A reply is written where its masks are: ``segment`` and ``stream`` take the function that writes it and return its
  bytes, so neither masks nor embeddings travel.
- What a request needs of the process that received it is its ``Context``: its caller, its stopwatch, its share of the
  memory for replies, and the rate limit of images to encode.
- ``status``, ``shelf`` and ``metrics`` are asynchronous, because a cluster has to ask for them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from osamd.events import PullProgress
from osamd.image_sources import ImageSource
from osamd.library.catalog import Model
from osamd.library.library import Library
from osamd.library.shelf import Shelf
from osamd.segment_requests import ImageHandle
from osamd.server.asks import Ask, Content, Write, WriteLines
from osamd.server.guard.memory_budget import Holding
from osamd.status import EngineStatus, State
from osamd.timings import Timings

How = TypeVar("How")


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    Attributes:
        name: the key's name, which owns embeddings and handles.
        is_admin: whether the key has the role admin.
    """

    name: str
    is_admin: bool


class Encodes(Protocol):
    """The rate limit of images to encode, as ``RateLimit`` has it."""

    def take(self, name: str) -> None:
        """Use one token of this key; raises ``RateLimitedError`` if none is left."""

    def give_back(self, name: str) -> None:
        """Return a token that was not needed."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What answering a request needs of the process that received it.

    Attributes:
        caller: who asks.
        timings: the request's stopwatch.
        holding: its share of the memory for masks and replies.
        encodes: the rate limit of images to encode.
        request_id: as in the answer, for logs.
    """

    caller: Caller
    timings: Timings
    holding: Holding
    encodes: Encodes
    request_id: str = ""


class Answers(Protocol):
    """Segments images and knows the models. Belongs to one event loop.

    Attributes:
        library: the catalogue, and which pulls are allowed. Ask ``shelf`` which files are here.
    """

    library: Library

    @property
    def state(self) -> State:
        """The state as far as this process knows it; immediately, for ``/health``."""

    async def status(self) -> EngineStatus:
        """The current state, of all processes together."""

    async def readiness(self) -> EngineStatus:
        """For ``/ready``, which is public: what this process knows without asking others; in a cluster, no models."""

    async def shelf(self) -> Shelf:
        """Which models' files are here. It may access the disk when asked, so ask it on a thread."""

    @property
    def label(self) -> str:
        """Of this process, to tell it from others in metrics; empty where there are no others."""

    async def metrics(self) -> Mapping[str, bytes]:
        """Other processes' metrics by a label of each, in Prometheus' text format; none if there are no others."""

    def check_room(self, owner: str) -> None:
        """Raise ``OverloadedError`` if a new image of this owner could not wait to be encoded now."""

    async def check_may_use(self, model: Model, caller: Caller) -> None:
        """Raise ``AdminOnlyError`` if the model would need a pull that this caller may not trigger."""

    async def segment(self, ask: Ask[How], image: ImageSource, context: Context, write: Write[How]) -> Content:
        """Answer a request, in everything mode too, and write its reply with the headers all protocols share.

        Args:
            ask: what to segment; its own image is not used.
            image: the image or its handle.
            context: of the request.
            write: writes the reply.

        Raises:
            OsamdError: as ``Engine.segment``.
        """

    def stream(
        self, ask: Ask[How], image: ImageSource, context: Context, write_lines: WriteLines[How]
    ) -> AsyncGenerator[Mapping[str, str] | bytes, None]:
        """Answer a request in everything mode, line by line: first the reply's headers, then lines. Close it when done.

        Arguments and errors as for ``segment``.
        """

    async def embed(self, image: ImageSource, model: str | None, context: Context) -> ImageHandle:
        """Encode an image ahead of the first click; errors as for ``Engine.embed``."""

    async def forget(self, image_id: str, owner: str) -> None:
        """Delete an image; raises ``EmbeddingExpiredError`` if this owner has no such image."""

    async def remove(self, model: Model) -> None:
        """Delete a model's files and unload it; errors as for ``Engine.remove``."""

    def pull(self, model: Model) -> AsyncIterator[PullProgress]:
        """Pull a model and yield progress until it has finished; errors as for ``Pulling.follow``."""

    async def start(self) -> None:
        """Start what every image needs, before ``preload``; a failure is logged and keeps it from being ready."""

    async def preload(self) -> None:
        """Load the configured models; raises the first error after all were tried."""

    def drain(self) -> None:
        """Refuse queued jobs; running ones finish. Called once stopping begins."""

    async def close(self, *, patience_s: float | None = None) -> bool:
        """Finish running jobs and stop.

        Args:
            patience_s: seconds to wait for running jobs; None waits as long as it takes.

        Returns:
            Whether everything has ended; otherwise some thread still runs an abandoned computation.
        """
