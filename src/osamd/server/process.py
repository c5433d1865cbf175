"""A server process around the app: uvicorn, and where its log goes."""

import logging
import signal
import sys

import uvicorn
from fastapi import FastAPI

from osamd.settings import LogLevel, Settings

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
GRACE_S = 30


def configure_log(level: LogLevel) -> None:
    """Readable lines on stderr; stdout is for data."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    root = logging.getLogger("osamd")
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs."""
    # uvicorn raises the signal again once it has shut down; a stop that was asked for is a success all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
