"""What a start leaves out, and that nothing is left out after it."""

import gc
import subprocess
import sys

PROGRAM = """
import gc, sys
from osamd.server.startup import faster_imports
with faster_imports():
    assert not gc.isenabled()
    from osamd.server.app import create_app
    create_app()
assert gc.isenabled()
assert "pydantic.v1" not in sys.modules
import pydantic.v1
print(pydantic.v1.BaseModel.__name__, gc.get_freeze_count() > 10_000)
"""


def test_a_start_imports_nothing_needless() -> None:
    """The app is made without pydantic's first version, which can be imported by others all the same."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=False, capture_output=True, text=True)

    assert (0, "BaseModel True\n") == (done.returncode, done.stdout), done.stderr
    assert gc.isenabled()
