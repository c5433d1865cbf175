"""Process-wide setup around the app: heap, log, signals, and uvicorn."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette

from osamd.errors import SettingsError
from osamd.runtime import heap
from osamd.server.guard.connections import PatientConnection
from osamd.server.listening import listen
from osamd.server.stopping import handling_stop_signals
from osamd.server.telemetry.logs import configure_log
from osamd.settings import Settings

logger = logging.getLogger("osamd")

# At the default of 5 ms the event loop waits that long each time a worker holds the interpreter lock: while workers
# wrote polygons of noise, `/health` took up to 0.35 s instead of 0.10 s.
SWITCH_INTERVAL_S = 0.0005
# uvicorn's exit code for startup failures, such as a port in use.
STARTUP_FAILED = 3


class _Server(uvicorn.Server):
    """Logs a port that it picked whatever the log level, since nobody could find it otherwise."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        uvicorns = logging.getLogger("uvicorn.error")
        if not self.started or self.config.port or uvicorns.isEnabledFor(logging.INFO):
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        message = "listening on %s, port %d"
        line = (logger.name, logging.INFO, __file__, 0, message, (self.config.host, port), None)
        # Past the level, as a line of the level it has.
        logger.handle(logger.makeRecord(*line))


def prepare_process(settings: Settings) -> None:
    """Set up the process's log, heap and threads. Call before other threads are started."""
    heap.share()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    configure_log(settings)


def drain_on_signals(app: Starlette) -> None:
    """Make the app refuse queued requests on the first SIGTERM or SIGINT; a second one ends the process.

    ``serve`` does this itself; for an app served by uvicorn's own command, call it before the app starts.
    """
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(started: Starlette) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        with handling_stop_signals(lambda: loop.call_soon_threadsafe(started.state.services.answers.drain)):
            async with inner(started) as state:
                yield state

    app.router.lifespan_context = lifespan


def serve(app: Starlette, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests."""
    try:
        sockets = listen(settings.host, settings.port)
    except SettingsError as error:
        # As uvicorn does when it cannot bind.
        logger.error("%s", error)  # noqa: TRY400 - the message suffices
        sys.exit(STARTUP_FAILED)
    drain_on_signals(app)
    # uvicorn raises the signal again after shutting down; a requested stop must still exit with 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientConnection,
        ws="none",
        # prepare_process has configured it.
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.grace_s)),
        server_header=False,
        # The app does that, for the configured proxies only; uvicorn would trust every local process.
        proxy_headers=False,
    )
    server = _Server(config)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILED)
    if app.state.has_leftovers:
        # Threads that still compute would crash the interpreter during its shutdown.
        logging.shutdown()
        os._exit(0)
