"""``Preloads``: the models that are loaded and have run before the engine is ready."""

import contextlib
from collections.abc import Awaitable, Callable

from osamd.errors import OsamdError, RequestError
from osamd.library.catalog import DEFAULT_MODEL, Model
from osamd.library.library import Library
from osamd.settings import Settings


class Preloads:
    """The configured models, and which of them have run.

    Args:
        settings: name them.
        library: resolves the names.
    """

    def __init__(self, settings: Settings, library: Library) -> None:
        # A configured GPU must prove to work before the server is ready, even if nothing is preloaded.
        self._names = settings.preload or ((DEFAULT_MODEL,) if settings.device == "cuda" else ())
        self._library = library
        self._warm: set[str] = set()

    @property
    def are_warm(self) -> bool:
        """Whether each has been loaded and run, even if some have been unloaded since."""
        try:
            members = [member for name in self._names for member in self._library.resolve(name).members]
        except RequestError:
            return False
        return all(member.name in self._warm for member in members)

    def include(self, model: Model) -> bool:
        """Whether it is one of them."""
        with contextlib.suppress(RequestError):
            return any(model in self._library.resolve(name).members for name in self._names)
        return False

    async def run(self, warm_up: Callable[[Model], Awaitable[None]]) -> None:
        """Load each and run it once; one that fails leaves the engine not ready.

        Args:
            warm_up: loads a model and runs it.

        Raises:
            OsamdError: the first failure, after all models were tried.
        """
        first: OsamdError | None = None
        for name in self._names:
            try:
                for model in self._library.resolve(name).members:
                    await warm_up(model)
                    self._warm.add(model.name)
            except OsamdError as error:
                first = first or error
        if first is not None:
            raise first
