"""The library: which models there are, where their files are, and getting them here."""

from collections.abc import Sequence

from osamd.errors import SettingsError, UnknownModelError
from osamd.events import Sink, tell
from osamd.library.catalog import DEFAULT_MODEL, Catalog, Model, load_catalog
from osamd.library.pulling import Pulling
from osamd.library.store import Store
from osamd.settings import Settings, variable_of


class Library:
    """Catalogue, store and pulls of one server or command.

    Pulls belong to one event loop; the rest may be used from any thread.

    Args:
        settings: who may have what pulled.
        catalog: the models there are.
        store: where their files are.
        sinks: receive the events of pulls.

    Attributes:
        catalog: the models there are.
        store: where their files are.
        pulls: the pulls under way.

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
        """The model of a name or alias; the built-in one where None is given.

        Raises:
            UnknownModelError: there is no such model.
        """
        return self.catalog.resolve(DEFAULT_MODEL if name is None else name)


def open_library(settings: Settings, sinks: Sequence[Sink] = ()) -> Library:
    """The library that the settings describe: the shipped catalogue with the user's rows, over the cache folder.

    Raises:
        SettingsError: ``OSAMD_MODELS`` names a model that is not in the catalogue.
    """
    catalog = load_catalog(settings.user_catalog)
    return Library(
        settings, catalog=catalog, store=Store(settings.cache, endpoints=settings.blob_endpoint), sinks=sinks
    )


def _allowed(settings: Settings, catalog: Catalog) -> frozenset[str]:
    try:
        return frozenset(catalog.resolve(name).name for name in settings.models)
    except UnknownModelError as error:
        raise SettingsError(f"{variable_of('models')}: {error}") from None
