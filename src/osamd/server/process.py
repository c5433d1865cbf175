"""The process around the app: its heap, its log, its signals, and uvicorn."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from osamd.errors import SettingsError
from osamd.runtime import heap
from osamd.server.guard.connections import PatientConnection
from osamd.server.listening import listen
from osamd.server.stopping import heeding_signals
from osamd.server.telemetry.logs import configure_log
from osamd.settings import Settings

logger = logging.getLogger("osamd")

# uvicorn's own code, for a port that is taken and the like.
STARTUP_FAILED = 3


def prepare_process(settings: Settings) -> None:
    """Set up what a process has once: its log and its heap. To be called before there are other threads."""
    heap.share()
    configure_log(settings)


def drain_on_signals(app: FastAPI) -> None:
    """Have the app refuse what waits at the first SIGTERM or SIGINT; a second one ends the process.

    ``serve`` does this itself; call it for an app that uvicorn's own command serves, before it starts.
    """
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        with heeding_signals(lambda: loop.call_soon_threadsafe(started.state.services.engine.drain)):
            async with inner(started) as state:
                yield state

    app.router.lifespan_context = lifespan


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    try:
        sockets = listen(settings.host, settings.port)
    except SettingsError as error:
        # As uvicorn does where it binds.
        logger.error("%s", error)  # noqa: TRY400 - the message says it all
        sys.exit(STARTUP_FAILED)
    drain_on_signals(app)
    # uvicorn raises the signal again once it has shut down; a stop that was asked for is a success all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientConnection,
        ws="none",
        # prepare_process has seen to it.
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.grace_s)),
        server_header=False,
        # The app does that, for the proxies it was told to trust; uvicorn would trust every local process.
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILED)
    if app.state.has_leftovers:
        # Threads that still compute would crash the interpreter while it takes itself down.
        logging.shutdown()
        os._exit(0)
