"""What the tests of downloads, pulls and the store have in common: models, contents, places and processes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from blob_server import BlobServer

from osamd.library.catalog import Attachment, Blob, Model
from osamd.library.downloads import Patience

CONTENT = b"".join(hashlib.sha512(bytes([seed])).digest() for seed in range(256)) * 20  # 327 680 bytes
OTHER = CONTENT[::-1]
IMPATIENT = Patience(connect_s=10, read_s=10, rounds=1, backoff_s=0.01)
PATIENT = Patience(connect_s=10, read_s=10, rounds=4, backoff_s=0.01)
HERE = Path(__file__).parent
NOBODY = 65534


def digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def model_of(url: str, content: bytes = CONTENT, *, name: str = "mine:latest", nbytes: int | None = None) -> Model:
    """A model of one blob."""
    return Model(name, "sam", {"encoder": Blob(url, digest(content), nbytes=nbytes)})


def with_data(blobs: BlobServer, graph: bytes = b"graph", data: bytes = CONTENT) -> Model:
    """A model of one blob with an attachment."""
    attachment = Attachment(blobs.put("/m/graph.onnx.data", data), digest(data))
    return Model(
        "big:latest", "sam", {"encoder": Blob(blobs.put("/m/graph.onnx", graph), digest(graph), (attachment,))}
    )


def blob_path(cache: Path, content: bytes = CONTENT) -> Path:
    """Where osam keeps a blob."""
    return cache / "models" / "blobs" / f"sha256-{digest(content)}"


def partial_path(cache: Path, content: bytes = CONTENT) -> Path:
    """Where an unfinished blob lies."""
    return cache / "models" / "blobs" / ".osamd" / digest(content) / f"{digest(content)}.partial"


def blobs_in(cache: Path) -> list[str]:
    """What osam would find in the folder of blobs."""
    folder = cache / "models" / "blobs"
    return sorted(path.name for path in folder.glob("*") if path.name != ".osamd") if folder.exists() else []


def start_pull(cache: Path, url: str) -> "subprocess.Popen[str]":
    """A process that pulls ``CONTENT``."""
    command = [sys.executable, str(HERE / "pull_process.py"), str(cache), url, digest(CONTENT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
