"""osamd on Modal: ``modal deploy deploy/modal/app.py``. Guide: docs/guides/deploy/modal.md."""

import sys
from typing import Any

import modal

IMAGE = "REGISTRY/osamd:gpu"
CACHE = "/root/.cache/osam"

# Modal starts its own runner; the image's entrypoint would prevent that.
image = modal.Image.from_registry(IMAGE).entrypoint([]).env({"OSAMD_PRELOAD": "sam2:tiny"})
app = modal.App("osamd")


@app.function(
    image=image,
    gpu="L4",
    cpu=4,
    memory=16384,
    volumes={CACHE: modal.Volume.from_name("osamd-models", create_if_missing=True)},
    secrets=[modal.Secret.from_name("osamd", required_keys=["API_KEY"])],
    min_containers=0,
    max_containers=2,
    scaledown_window=300,
    timeout=300,
    startup_timeout=600,
)
@modal.concurrent(max_inputs=8, target_inputs=4)
@modal.asgi_app()
def web() -> Any:
    """The server, protected by its own key: Modal requires none."""
    sys.path.insert(0, "/app")
    from main import app as asgi  # noqa: PLC0415 - exists only in the container

    return asgi
