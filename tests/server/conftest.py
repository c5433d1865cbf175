"""A server with models of every family, shared by the tests of the model library."""

from collections.abc import Iterator

import pytest
from shelf import Library, WebModel, run_library

# As many models as tests want one that nobody has pulled yet.
FRESH = 40


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A real server with a local model of each family, and others that can be pulled."""
    with run_library(tmp_path_factory.mktemp("library"), fresh=FRESH) as running:
        yield running


@pytest.fixture
def fresh(library: Library) -> WebModel:
    """A model of that server which is not here yet."""
    return next(library.fresh)
