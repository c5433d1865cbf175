from pathlib import Path

import pytest
from benchmarks.servers import FILES
from graphs import write_family


@pytest.fixture
def small_blobs(tmp_path: Path) -> Path:
    """Graphs that answer in milliseconds, under the names of the real-size ones."""
    folder = tmp_path / "blobs"
    folder.mkdir()
    for model, names in FILES.items():
        paths = write_family(model.partition(":")[0], tmp_path)
        for role, name in zip(("encoder", "decoder"), names, strict=True):
            paths[role].rename(folder / name)
    return folder
