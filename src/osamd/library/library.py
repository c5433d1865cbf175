"""The model library: the catalogue, the files on disk, and pulls."""

from collections.abc import Sequence

from osamd.errors import RequestError, SettingsError
from osamd.events import Sink, tell
from osamd.library.catalog import DEFAULT_MODEL, Catalog, Model, load_catalog
from osamd.library.pulling import Pulling
from osamd.library.store import Store
from osamd.settings import Settings, variable_of


class Library:
    """Catalogue, store and pulls of one server or command.

    Pulls are bound to one event loop; the rest is thread-safe.

    Args:
        settings: which pulls are allowed.
        catalog: the known models.
        store: their files.
        sinks: receive the events of pulls.

    Attributes:
        catalog: the known models.
        store: their files.
        pulls: the pulls in progress.

    Raises:
        SettingsError: ``OSAMD_MODELS`` names a model that is not in the catalogue.
    """

    def __init__(self, settings: Settings, *, catalog: Catalog, store: Store, sinks: Sequence[Sink] = ()) -> None:
        self.catalog = catalog
        self.store = store
        self.pulls = Pulling(
            store,
            policy=settings.pull,
            allowed=_allowed(settings, catalog),
            wait_s=settings.pull_wait_s,
            emit=lambda event: tell(sinks, event),
        )

    def resolve(self, name: str | None) -> Model:
        """Look up a model by name or alias; None means the built-in model.

        Raises:
            UnknownModelError: there is no such model.
            InvalidRequestError: these models cannot be chained.
        """
        return self.catalog.resolve(DEFAULT_MODEL if name is None else name)


def open_library(settings: Settings, sinks: Sequence[Sink] = ()) -> Library:
    """Open the library described by the settings: the shipped catalogue, the user's rows and the cache folder.

    Raises:
        SettingsError: ``OSAMD_MODELS`` names a model that is not in the catalogue.
    """
    catalog = load_catalog(settings.user_catalog)
    return Library(
        settings, catalog=catalog, store=Store(settings.cache, endpoints=settings.blob_endpoint), sinks=sinks
    )


def _allowed(settings: Settings, catalog: Catalog) -> frozenset[str]:
    try:
        return frozenset(model.name for name in settings.models for model in catalog.resolve(name).members)
    except RequestError as error:
        raise SettingsError(f"{variable_of('models')}: {error}") from None
