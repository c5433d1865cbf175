"""``create_app``: the HTTP app as a value. No globals."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from osamd.engine import Engine
from osamd.errors import OsamdError, RequestError, SettingsError
from osamd.events import Sink, log_event, tell
from osamd.library.library import open_library
from osamd.pixels.decoder import Decoder
from osamd.server.answers import Answers
from osamd.server.door import Door, door_of, read_secrets, write_problem
from osamd.server.door_middleware import DoorMiddleware
from osamd.server.doors import open_doors
from osamd.server.guard.auth import (
    DEVELOPMENT,
    KEY_VARIABLE,
    TOO_SHORT,
    ApiKeyMiddleware,
    ASGIApp,
    Scope,
    is_guessable,
)
from osamd.server.guard.connections import is_among
from osamd.server.guard.headers import OriginsMiddleware, SecurityHeadersMiddleware
from osamd.server.guard.keys import KeyFile
from osamd.server.guard.label_studio import LabelStudio
from osamd.server.guard.limits import SMALL_BODY_BYTES, AdmissionMiddleware, BodyMiddleware
from osamd.server.guard.memory_budget import MemoryBudget
from osamd.server.guard.origins import Origins
from osamd.server.guard.rate_limit import RateLimit
from osamd.server.guard.remote_images import RemoteImages
from osamd.server.guard.repeated_refusals import RepeatedRefusals
from osamd.server.local_answers import LocalAnswers
from osamd.server.pools import Pools
from osamd.server.problems import add_error_handlers
from osamd.server.routes import docs, embed, generate, health, models, playground
from osamd.server.routes import metrics as metrics_route
from osamd.server.services import REFUSALS_STATE, SETTINGS_STATE, SINKS_STATE, Services
from osamd.server.telemetry.metrics import Metrics
from osamd.server.telemetry.observe import ObserveMiddleware
from osamd.server.telemetry.traces import configured_traces
from osamd.settings import Settings, load_settings, variable_of

logger = logging.getLogger("osamd")

PUBLIC_PATHS = frozenset({"/health", "/ready"})
# Opened by browsers, which send no key: the API docs and the playground, which reveal nothing about callers.
PAGE_PATHS = frozenset({"/docs", "/openapi.json", "/playground"})
PAGE_PREFIXES = ("/docs/", "/playground/")
HEAD_START_S = 0.02
METRICS_LATER_S = 1.0
# The order of the docs.
OWN = (health.operations, generate.operations, embed.operations, models.operations, metrics_route.operations)
PAGES = (docs.operations, playground.operations)
ADMIN_PATHS = frozenset({"/api/pull", "/api/delete", "/metrics"})


def create_app(
    settings: Settings | None = None,
    engine: Engine | None = None,
    sinks: Sequence[Sink] = (),
    doors: Sequence[Door] | None = None,
    answers: Answers | None = None,
) -> Starlette:
    """Build the app. It changes no process-wide state, so it can be mounted in another one.

    Args:
        settings: read from the environment when None.
        engine: built from the settings when None.
        sinks: receive every event, as the metrics do; the log when empty.
        doors: other tools' protocols, besides osamd's own; those of the settings when None.
        answers: segments images in other processes; the engine does it in this one when None.

    Raises:
        SettingsError: a setting is invalid.
    """
    settings = load_settings() if settings is None else settings
    metrics = Metrics()
    traces = configured_traces()
    sinks = (*(sinks or (log_event,)), metrics, *([traces] if traces is not None else []))
    pools = Pools(settings, emit=functools.partial(tell, sinks))
    if answers is None:
        answers = local_answers(settings, engine, sinks, pools)
    remote_images = RemoteImages(settings, emit=functools.partial(tell, sinks))
    services = Services(
        settings=settings,
        answers=answers,
        pools=pools,
        memory=MemoryBudget(settings.mask_memory_bytes, wait_s=settings.queue_wait_s),
        encodes=RateLimit("images to encode", settings.encodes_per_minute),
        remote_images=remote_images,
        label_studio=LabelStudio(settings, remote_images),
        metrics=metrics,
        traces=traces,
        sinks=sinks,
        doors=open_doors(settings) if doors is None else tuple(doors),
    )
    families = [*OWN, *(door.operations for door in services.doors), *(PAGES if settings.docs == "on" else ())]
    app = Starlette(
        routes=[route for family in families for route in family.routes],
        lifespan=_lifespan,
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(BodyMiddleware, settings=settings),
            *_origins(settings),
            Middleware(ObserveMiddleware, sinks=sinks),
            *_proxies(settings),
            Middleware(DoorMiddleware, doors=services.doors),
            Middleware(_guard(settings, services.doors)),
            Middleware(AdmissionMiddleware, settings=settings, memory=services.memory, check_room=answers.check_room),
        ],
    )
    app.state.services = services
    app.state.has_leftovers = False
    # Redirects would be absolute: http:// behind TLS, to whatever Host says, and without a proxy's prefix.
    app.router.redirect_slashes = False
    add_error_handlers(app)
    return app


def local_answers(settings: Settings, engine: Engine | None, sinks: Sequence[Sink], pools: Pools) -> LocalAnswers:
    """The answers of an engine in this process; it is built from the settings when None, with its image decoder."""
    decoder = None
    if engine is None:
        decoder = Decoder(cpu_s=settings.decode_s)
        engine = _build_engine(settings, sinks, decoder)
    return LocalAnswers(settings, engine=engine, decoder=decoder, pools=pools)


def _build_engine(settings: Settings, sinks: Sequence[Sink], decoder: Decoder) -> Engine:
    """An engine with the library of the settings.

    Raises:
        SettingsError: a model to preload is unknown.
    """
    library = open_library(settings, sinks)
    for name in settings.preload:
        try:
            library.resolve(name)
        except RequestError as error:
            raise SettingsError(f"{variable_of('preload')}: {error}") from None
    return Engine(settings, library=library, sinks=sinks, decode=decoder)


def _origins(settings: Settings) -> list[Middleware]:
    """CORS, if it is on: around everything that answers, so that pages can read the 500 of a bug as well."""
    return [Middleware(OriginsMiddleware, origins=Origins(settings.cors_origins))] if settings.cors_origins else []


def _proxies(settings: Settings) -> list[Middleware]:
    """Client addresses behind proxies, if there are any."""
    if not settings.trusted_proxies:
        return []
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return [Middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))]


def _guard(settings: Settings, doors: Sequence[Door]) -> Callable[[ASGIApp], ApiKeyMiddleware]:
    """The authentication middleware, as a closure: a ``Middleware`` would show the key in its repr."""
    # Checked and read here, so that a bad key or file fails the startup and not the first request.
    is_development = settings.app_env == DEVELOPMENT
    secret = settings.api_key.get_secret_value().strip() if settings.api_key is not None else ""
    if secret and is_guessable(secret) and not is_development:
        raise SettingsError(f"{KEY_VARIABLE}: {TOO_SHORT}")
    keys = None
    if settings.api_key_file is not None:
        keys = KeyFile(settings.api_key_file, may_be_guessable=is_development)

    def make(app: ASGIApp) -> ApiKeyMiddleware:
        has_pages = settings.docs == "on"
        return ApiKeyMiddleware(
            app,
            api_key=secret,
            app_env=settings.app_env,
            public_paths=PUBLIC_PATHS | PAGE_PATHS if has_pages else PUBLIC_PATHS,
            public_prefixes=PAGE_PREFIXES if has_pages else (),
            keys=keys,
            admin_paths=ADMIN_PATHS,
            allowed_origins=Origins(settings.cors_origins),
            wrong_keys_per_minute=settings.wrong_keys_per_minute,
            read_secrets=functools.partial(read_secrets, doors),
            write_problem=functools.partial(write_problem, doors),
            is_public=lambda scope: (door := door_of(doors, scope)) is not None and door.is_public(scope),
            is_keyless=lambda scope: _is_keyless(doors, settings, scope),
        )

    return make


def _is_keyless(doors: Sequence[Door], settings: Settings, scope: Scope) -> bool:
    """Whether a request is from a tool that cannot send a key, in a network whose clients need none."""
    door = door_of(doors, scope)
    return door is not None and door.is_keyless and is_among(scope.get("client"), settings.keyless_networks)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
    """Load models in the background, so that /health answers at once; let the engine finish at the end."""
    services: Services = app.state.services
    answers = services.answers
    for problem in services.library.catalog.problems:
        logger.warning("left out of the catalogue: %s", problem)

    async def preload() -> None:
        # Loading a model's imports holds the interpreter lock: answer probes that are already waiting first.
        await asyncio.gather(answers.start(), asyncio.sleep(HEAD_START_S))
        if services.traces is not None:
            await asyncio.to_thread(services.traces.load)
        try:
            await answers.preload()
        except OsamdError as error:
            # The message suffices; a traceback would bury it.
            logger.error("not ready: %s", error)  # noqa: TRY400
        except Exception:
            logger.exception("not ready")
        try:
            # Until then they keep their events. Requests that woke the server must not wait for their imports.
            await asyncio.sleep(METRICS_LATER_S)
            await asyncio.to_thread(services.metrics.load)
        # Requests are answered without them; say why they are missing.
        except Exception:
            logger.exception("metrics could not be started")

    task = asyncio.create_task(preload())
    try:
        # For the connections, which have no access to the app.
        refusals = RepeatedRefusals(least_bytes=SMALL_BODY_BYTES, most_bytes=services.settings.max_body_bytes)
        yield {SETTINGS_STATE: services.settings, SINKS_STATE: services.sinks, REFUSALS_STATE: refusals}
    finally:
        task.cancel()
        app.state.has_leftovers = not await services.close()
