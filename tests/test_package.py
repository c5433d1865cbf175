"""What the wheel holds; ``make release-check`` installs it where nothing else is."""

import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from osamd import __version__
from osamd.server.routes.docs import ASSETS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as it would be published."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_is_the_package(wheel: zipfile.ZipFile) -> None:
    """Every file of the package is in it, weights and catalogue too, and Swagger UI's, and no other."""
    package = ROOT / "src"
    here = {str(path.relative_to(package)) for path in (package / "osamd").rglob("*") if path.is_file()}
    there = {name for name in wheel.namelist() if ".dist-info/" not in name}
    swagger_ui = {f"osamd/server/docs/{name}" for name in ASSETS}
    assert {path for path in here if "__pycache__" not in path} | swagger_ui == there
    assert all(wheel.getinfo(name).file_size > 50_000 for name in swagger_ui)
    assert {"osamd/py.typed", "osamd/library/catalog.toml"} <= there


def test_the_version_is_in_one_place(wheel: zipfile.ZipFile) -> None:
    """The package's own ``__version__`` is the wheel's, and the licence comes with it."""
    folder = f"osamd-{__version__}.dist-info"
    metadata = HeaderParser().parsestr(wheel.read(f"{folder}/METADATA").decode("utf-8"))
    assert __version__ == metadata["Version"]
    assert "Apache-2.0" == metadata["License-Expression"]
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert "osamd = osamd.cli.main:main" in wheel.read(f"{folder}/entry_points.txt").decode("utf-8")
