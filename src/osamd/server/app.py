"""``create_app``: the HTTP app as a value. No globals."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from osamd import __version__
from osamd.catalog import load_catalog
from osamd.engine import Engine
from osamd.errors import OsamdError
from osamd.events import Sink, log_event
from osamd.server.auth import ApiKeyMiddleware
from osamd.server.limits import BodyLimitMiddleware
from osamd.server.observe import ObserveMiddleware
from osamd.server.problems import add_error_handlers
from osamd.server.routes import docs, embed, generate, health
from osamd.settings import Settings, load_settings
from osamd.store import Store

logger = logging.getLogger("osamd")

PUBLIC_PATHS = frozenset({"/health", "/ready"})
DOCS_PATHS = frozenset({"/docs", "/openapi.json"})
DOCS_PREFIX = "/docs/"


def create_app(settings: Settings | None = None, engine: Engine | None = None, sinks: Sequence[Sink] = ()) -> FastAPI:
    """Build the app.

    Args:
        settings: read from the environment when None.
        engine: built from the settings when None.
        sinks: told about every event; the log when empty.
    """
    settings = load_settings() if settings is None else settings
    sinks = tuple(sinks) or (log_event,)
    if engine is None:
        engine = Engine(settings, catalog=load_catalog(), store=Store(settings.cache), sinks=sinks)
    has_docs = settings.docs == "on"
    app = FastAPI(
        title="osamd",
        version=__version__,
        summary="Clicks, boxes and words into masks.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
        middleware=[
            Middleware(ObserveMiddleware, sinks=sinks),
            Middleware(
                ApiKeyMiddleware,
                api_key=settings.api_key.get_secret_value() if settings.api_key else "",
                app_env=settings.app_env,
                public_paths=PUBLIC_PATHS | DOCS_PATHS if has_docs else PUBLIC_PATHS,
                public_prefixes=(DOCS_PREFIX,) if has_docs else (),
            ),
            Middleware(BodyLimitMiddleware, max_body_bytes=settings.max_body_bytes),
        ],
    )
    app.state.settings = settings
    app.state.engine = engine
    for routes in (health, generate, embed):
        app.include_router(routes.router)
    if has_docs:
        app.include_router(docs.router)
    add_error_handlers(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load models in the background, so that /health answers at once; let the engine finish at the end."""
    engine: Engine = app.state.engine

    async def preload() -> None:
        try:
            await engine.preload()
        except OsamdError as error:
            # The message says it all; a traceback would bury it.
            logger.error("not ready: %s", error)  # noqa: TRY400

    task = asyncio.create_task(preload())
    try:
        yield
    finally:
        task.cancel()
        await engine.close()
