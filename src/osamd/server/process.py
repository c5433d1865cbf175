"""A server process around the app: uvicorn, and how it stops."""

import contextlib
import logging
import math
import os
import signal
import sys

import uvicorn
from fastapi import FastAPI

from osamd.server.guard.connections import PatientConnection
from osamd.settings import Settings

# uvicorn's own code, for a port that is taken and the like.
STARTUP_FAILED = 3


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    # uvicorn raises the signal again once it has shut down; a stop that was asked for is a success all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientConnection,
        ws="none",
        # configure_log has seen to it.
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, math.ceil(settings.grace_s)),
        server_header=False,
        # The app does that, for the proxies it was told to trust; uvicorn would trust every local process.
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILED)
    if app.state.has_leftovers:
        # Threads that still compute would crash the interpreter while it takes itself down.
        logging.shutdown()
        os._exit(0)
