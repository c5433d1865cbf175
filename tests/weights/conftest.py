"""The real models, pulled once into a cache that is kept (``OSAMD_CACHE``, or osam's own), and a server over it.

Opt-in (``make test-weights``): needs the internet, 10 GB of disk and, for SAM 3, 16 GB of memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import KEY, RunningServer, run_server

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OSAM_BLOB_ENDPOINT", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """These tests are the ones that may reach the internet."""


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where the models are, so that a second run has them."""
    folder = Path(os.environ.get("OSAMD_CACHE", "~/.cache/osam")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def real_server(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that pulls what it lacks."""
    names = [*PROXIES, *(name.lower() for name in PROXIES)]
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {
        "API_KEY": KEY,
        "OSAMD_CACHE": str(cache),
        "OSAMD_DEVICE": "cpu",
        "OSAMD_DEADLINE_S": "900",
        "OSAMD_CATALOG": str(tmp_path_factory.mktemp("catalog") / "none.toml"),
    }
    Path(env["OSAMD_CATALOG"]).touch()
    with run_server(cache=tmp_path_factory.mktemp("log"), env=env) as running:
        yield running
