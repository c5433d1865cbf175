import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from serving import clean_environment
from waiting import WAIT_S

from osamd.library.families import FAMILIES, capabilities_of

# Prints what a listing needs, and fails if anything loaded ONNX Runtime for it.
SHOW = """
import sys
from osamd.cli.main import main
main(["show", "sam2:tiny"])
sys.exit("onnxruntime" in sys.modules)
"""
TAGS = """
import sys
from starlette.testclient import TestClient
from osamd.server.app import create_app
from osamd.settings import load_settings
app = create_app(load_settings(app_env="development", preload=()))
client = TestClient(app)
for answer in (client.get("/api/tags"), client.get("/api/catalog"), client.post("/api/show", json={"model": "sam"})):
    assert answer.status_code == 200, answer.text
assert client.get("/api/tags").json()["models"][0]["capabilities"]
sys.exit("onnxruntime" in sys.modules)
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_has_the_capabilities_of_its_family(family: str) -> None:
    """Each family names a class that exists, and the class has the capabilities given here."""
    module, name = FAMILIES[family].adapter
    assert capabilities_of(family) is getattr(import_module(module), name).capabilities


@pytest.mark.parametrize("code", [SHOW, TAGS], ids=["osamd show", "the server's listings"])
def test_listings_do_not_load_onnx_runtime(code: str, tmp_path: Path) -> None:
    """What a model takes is known without its adapter, so ``show`` and ``/api/tags`` need no ONNX Runtime."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=clean_environment({"OSAMD_CACHE": str(tmp_path)}),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
