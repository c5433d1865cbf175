"""A server that has all models of osam by name, as small graphs."""

from collections.abc import Iterator

import osam.apis
import pytest
from blob_server import serve_blobs
from serving import KEY, RunningServer, run_server
from shelf import Shelf

from osamd.library.catalog import load_catalog


@pytest.fixture(scope="session")
def osam_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Answers for every model name that osam knows."""
    folder = tmp_path_factory.mktemp("osam-names")
    (folder / "rows").mkdir()
    families = {model.name: model.family for model in load_catalog()}
    with serve_blobs() as web:
        shelf = Shelf(folder / "rows", web)
        for kind in osam.apis.registered_model_types:
            shelf.add_local(kind.name, families[kind.name])
        env = {"API_KEY": KEY, "OSAMD_CATALOG": str(shelf.write()), "OSAMD_THREADS": "1", "OSAMD_KEEP_ALIVE": "5m"}
        with run_server(cache=folder, env=env) as running:
            yield running
