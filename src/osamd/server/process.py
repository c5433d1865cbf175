"""A server process around the app: uvicorn, and how it stops."""

import contextlib
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from osamd.engine import Engine
from osamd.server.connections import PatientConnection
from osamd.settings import Settings

GRACE_S = 30
# uvicorn's own code, for a port that is taken and the like.
STARTUP_FAILED = 3


class _Server(uvicorn.Server):
    """uvicorn, which waits for the requests that still run: those that wait for a model to come are told first."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._engine.stop_pulls()
        await super().shutdown(sockets)


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
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        # The app does that, for the proxies it was told to trust; uvicorn would trust every local process.
        proxy_headers=False,
    )
    server = _Server(config, app.state.engine)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILED)
