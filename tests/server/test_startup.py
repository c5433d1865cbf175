"""What a start does without, for as long as it lasts."""

import gc
import subprocess
import sys

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


def test_a_start_collects_no_garbage() -> None:
    """The collector rests while the app is made, works again afterwards, and leaves alone what was imported."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=False, capture_output=True, text=True)

    assert (0, "True\n") == (done.returncode, done.stdout), done.stderr
    assert gc.isenabled()
