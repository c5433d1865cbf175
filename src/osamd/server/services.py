"""What routes need: the app's services as one value, and a request's caller."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request

from osamd.events import Sink
from osamd.library.library import Library
from osamd.server.answers import Answers, Caller
from osamd.server.door import Door
from osamd.server.guard.auth import ADMIN
from osamd.server.guard.label_studio import LabelStudio
from osamd.server.guard.memory_budget import Holding, MemoryBudget
from osamd.server.guard.rate_limit import RateLimit
from osamd.server.guard.remote_images import RemoteImages
from osamd.server.pools import Pools
from osamd.server.telemetry.metrics import Metrics
from osamd.server.telemetry.traces import Traces
from osamd.settings import Settings
from osamd.status import EngineStatus, State
from osamd.timings import Timings

# Keys in the lifespan state under which connections find the settings, the event sinks and the repeated refusals.
SETTINGS_STATE = "osamd_settings"
SINKS_STATE = "osamd_sinks"
REFUSALS_STATE = "osamd_refusals"
# For abandoned computations, after all requests are answered.
LEFTOVERS_S: Final = 1.0
# For a collector that does not accept the last spans.
TRACES_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one app.

    Attributes:
        settings: limits and policies.
        answers: segments images, here or elsewhere.
        pools: threads that parse bodies and write replies.
        encodes: rate limit for encoding images, per key.
        memory: memory budget of masks and replies.
        remote_images: fetches images by URL.
        label_studio: fetches images of Label Studio's tasks.
        metrics: counters of this app.
        traces: exports spans to a collector; None if none is configured.
        sinks: receive every event, including the metrics and traces.
        doors: other tools' protocols.
    """

    settings: Settings
    answers: Answers
    pools: Pools
    encodes: RateLimit
    memory: MemoryBudget
    remote_images: RemoteImages
    label_studio: LabelStudio
    metrics: Metrics
    traces: Traces | None
    sinks: Sequence[Sink]
    doors: Sequence[Door]

    @property
    def library(self) -> Library:
        """The catalogue, and which pulls are allowed."""
        return self.answers.library

    @property
    def state(self) -> State:
        """The state as far as this process knows it; ``stuck`` if the server's own threads are."""
        return self._state(self.answers.state)

    async def readiness(self) -> EngineStatus:
        """The state, without asking other processes, and the server's own queues after the engine's."""
        status = await self.answers.readiness()
        return replace(
            status,
            state=self._state(status.state),
            lanes=(*status.lanes, *self.pools.status(), *self.remote_images.status()),
            masks=self.memory.status(),
        )

    def _state(self, state: State) -> State:
        is_stuck = self.pools.is_stuck or self.remote_images.is_stuck
        return "stuck" if is_stuck and state != "stopping" else state

    async def close(self) -> bool:
        """Finish running work, once all requests are answered, and stop threads and processes.

        Returns:
            Whether everything has ended; otherwise some thread still runs an abandoned computation.
        """
        have_ended = await asyncio.gather(
            self.answers.close(patience_s=LEFTOVERS_S), self.pools.close(patience_s=LEFTOVERS_S)
        )
        traces = self.traces
        are_sent = traces is None or await asyncio.to_thread(traces.close, patience_s=TRACES_S)
        return all(have_ended) and are_sent


def services_of(request: Request) -> Services:
    """The services of the app that received this request."""
    services: Services = request.app.state.services
    return services


def caller_of(request: Request) -> Caller:
    """The owner of the key that this request carries."""
    return Caller(request.state.key_name, is_admin=request.state.key_role == ADMIN)


def holding_of(request: Request) -> Holding:
    """This request's share of the memory for masks and replies; released when its reply is sent."""
    holding: Holding = request.state.holding
    return holding


def timings_of(request: Request) -> Timings:
    """This request's stopwatch."""
    timings: Timings = request.state.timings
    return timings
