"""Hand-made graphs of all families, written once."""

import pytest
from graphs import FAMILIES, write_family
from peer import Blobs


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    """Paths by family and role."""
    folder = tmp_path_factory.mktemp("graphs")
    return {family: write_family(family, folder) for family in FAMILIES}
