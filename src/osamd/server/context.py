"""What every route needs of the app and of the request, typed."""

from starlette.requests import Request

from osamd.engine import Engine
from osamd.server.guard.auth import ADMIN
from osamd.server.guard.remote_images import RemoteImages
from osamd.server.telemetry.metrics import Metrics
from osamd.settings import Settings
from osamd.timings import Timings

# Where the app's lifespan leaves the settings, and whom to tell of events, for the connections.
SETTINGS_STATE = "osamd_settings"
SINKS_STATE = "osamd_sinks"


def engine_of(request: Request) -> Engine:
    """The app's engine."""
    engine: Engine = request.app.state.engine
    return engine


def metrics_of(request: Request) -> Metrics:
    """What the app has counted."""
    metrics: Metrics = request.app.state.metrics
    return metrics


def settings_of(request: Request) -> Settings:
    """The app's settings."""
    settings: Settings = request.app.state.settings
    return settings


def remote_images_of(request: Request) -> RemoteImages:
    """What fetches images by URL."""
    remote_images: RemoteImages = request.app.state.remote_images
    return remote_images


def owner_of(request: Request) -> str:
    """The name of the key this request came with: embeddings and handles belong to it."""
    owner: str = request.state.key_name
    return owner


def is_admin(request: Request) -> bool:
    """Whether the key this request came with has the role admin."""
    role: str = request.state.key_role
    return role == ADMIN


def timings_of(request: Request) -> Timings:
    """This request's stopwatch."""
    timings: Timings = request.state.timings
    return timings
