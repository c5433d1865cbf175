"""What routes need: the app's services as one value, and who makes a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request

from osamd.engine import Engine
from osamd.events import Sink
from osamd.library.library import Library
from osamd.pixels.decoder import Decoder
from osamd.server.door import Door
from osamd.server.guard.auth import ADMIN
from osamd.server.guard.memory_budget import Holding, MemoryBudget
from osamd.server.guard.rate_limit import RateLimit
from osamd.server.guard.remote_images import RemoteImages
from osamd.server.pools import Pools
from osamd.server.telemetry.metrics import Metrics
from osamd.server.telemetry.traces import Traces
from osamd.settings import Settings
from osamd.status import EngineStatus, State
from osamd.timings import Timings

# Where the app's lifespan leaves the settings, and whom to tell of events, for the connections.
SETTINGS_STATE = "osamd_settings"
SINKS_STATE = "osamd_sinks"
# For computations that nobody waits for any more, once all requests are answered.
LEFTOVERS_S: Final = 1.0
# For a collector that does not take the last spans.
TRACES_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Services:
    """What one app is made of.

    Attributes:
        settings: limits and policies.
        engine: answers.
        library: the models there are, and their files.
        decoder: the processes that decode images; None where an engine of one's own decodes them.
        pools: threads that parse bodies and write replies.
        encodes: how many images each key may have encoded.
        memory: how many bytes masks and replies may hold.
        remote_images: fetches images by URL.
        metrics: what this app has counted.
        traces: spans on their way to a collector; None where none is configured.
        sinks: told about every event, the metrics and the traces among them.
        doors: other tools' protocols.
    """

    settings: Settings
    engine: Engine
    library: Library
    decoder: Decoder | None
    pools: Pools
    encodes: RateLimit
    memory: MemoryBudget
    remote_images: RemoteImages
    metrics: Metrics
    traces: Traces | None
    sinks: Sequence[Sink]
    doors: Sequence[Door]

    @property
    def state(self) -> State:
        """The engine's, or ``stuck`` when the server's own threads are."""
        state = self.engine.state
        is_stuck = self.pools.is_stuck or self.remote_images.is_stuck
        return "stuck" if is_stuck and state != "stopping" else state

    def status(self) -> EngineStatus:
        """How things stand at this moment, with the server's own queues behind the engine's."""
        status = self.engine.status()
        return replace(
            status,
            state=self.state,
            lanes=(*status.lanes, *self.pools.status(), *self.remote_images.status()),
            masks=self.memory.status(),
        )

    async def close(self) -> bool:
        """Finish what runs, once all requests are answered, and let threads and processes go.

        Returns:
            Whether everything has ended; else some thread still computes something that nobody waits for.
        """
        if self.decoder is not None:
            await asyncio.to_thread(self.decoder.close)
        have_ended = await asyncio.gather(
            self.engine.close(patience_s=LEFTOVERS_S), self.pools.close(patience_s=LEFTOVERS_S)
        )
        traces = self.traces
        are_sent = traces is None or await asyncio.to_thread(traces.close, patience_s=TRACES_S)
        return all(have_ended) and are_sent


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is.

    Attributes:
        name: of the key; embeddings and handles belong to it.
        is_admin: whether the key has the role admin.
    """

    name: str
    is_admin: bool


def services_of(request: Request) -> Services:
    """The services of the app that got this request."""
    services: Services = request.app.state.services
    return services


def caller_of(request: Request) -> Caller:
    """Whose key this request came with."""
    return Caller(request.state.key_name, is_admin=request.state.key_role == ADMIN)


def holding_of(request: Request) -> Holding:
    """What this request holds of the memory for masks and replies; it is given back when its reply is sent."""
    holding: Holding = request.state.holding
    return holding


def timings_of(request: Request) -> Timings:
    """This request's stopwatch."""
    timings: Timings = request.state.timings
    return timings
