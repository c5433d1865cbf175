import json
import subprocess
import sys

import pytest

IMPORTS = [
    ("osamd", {"numpy", "onnxruntime", "cv2", "PIL", "fastapi", "pydantic", "httpx2"}),
    ("osamd.client", {"numpy", "onnxruntime", "cv2", "PIL", "fastapi", "pydantic", "uvicorn"}),
    ("osamd.server.guard.auth", {"numpy", "onnxruntime", "cv2", "PIL", "fastapi", "starlette", "pydantic"}),
    ("osamd.errors", {"numpy", "onnxruntime", "cv2", "PIL", "fastapi", "pydantic"}),
    ("osamd.settings", {"numpy", "onnxruntime", "cv2", "PIL", "fastapi"}),
    ("osamd.engine", {"numpy", "onnxruntime", "cv2", "PIL", "fastapi"}),
    ("osamd.server.app", {"numpy", "prometheus_client", "onnxruntime", "cv2", "PIL", "fastapi"}),
    ("osamd.cli.main", {"onnxruntime", "cv2", "PIL", "fastapi", "uvicorn"}),
]


@pytest.mark.parametrize(("module", "unwanted"), IMPORTS, ids=[module for module, _ in IMPORTS])
def test_importing_one_thing_does_not_import_everything(module: str, unwanted: set[str]) -> None:
    """A client needs no model runtime, the guard needs nothing, and /health does not wait for ONNX Runtime."""
    program = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"

    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert set() == unwanted & set(json.loads(output))


def test_the_documented_names_are_where_the_documents_say() -> None:
    """What users import."""
    program = """
from osamd import __version__
from osamd.client import AsyncClient, Client
from osamd.server.app import create_app
from osamd.server.guard.auth import ApiKeyMiddleware
from osamd.settings import Settings, load_settings
print(__version__)
"""

    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert 3 == len(output.strip().split("."))
