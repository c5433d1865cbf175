"""What a start does without, for as long as it lasts."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import gc
from osamd.server.startup import faster_imports
with faster_imports():
    assert not gc.isenabled()
    from osamd.server.app import create_app
    create_app()
assert gc.isenabled()
print(gc.get_freeze_count() > 10_000)
"""

THREADS = """
import os
from osamd.server.startup import faster_imports
with faster_imports():
    pass
import cv2, numpy
print(len(os.listdir("/proc/self/task")))
"""


def test_a_start_collects_no_garbage() -> None:
    """The collector rests while the app is made, works again afterwards, and leaves alone what was imported."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=False, capture_output=True, text=True)

    assert (0, "True\n") == (done.returncode, done.stdout), done.stderr
    assert gc.isenabled()


def test_a_start_looks_for_no_plugins_of_pydantic(tmp_path: Path) -> None:
    """An installed package could read the body of every request by bringing one."""
    (tmp_path / "spy.py").write_text("raise SystemExit('the plugin was loaded')\n")
    (tmp_path / "spy-1.0.dist-info").mkdir()
    (tmp_path / "spy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    (tmp_path / "spy-1.0.dist-info" / "entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment.pop("PYDANTIC_DISABLE_PLUGINS", None)

    def run(program: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", program]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment).stderr

    assert "the plugin was loaded" in run("import osamd.settings")
    assert not run(PROGRAM)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_start_brings_no_threads_for_linear_algebra() -> None:
    """They would spin for a tenth of a second each, on cores that the first models are loaded on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "OMP_"))}
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)

    assert "1\n" == done.stdout
