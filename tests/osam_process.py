"""osam's own server on local graphs: ``PORT=0 python osam_process.py '{"sam:300m": {"encoder": "/..."}}'``."""

import json
import os
import sys
from pathlib import Path

import uvicorn
from osam import apis, types
from osam._server import app


class LocalBlob(types.Blob):  # type: ignore[misc]
    """A blob that is not pulled; its URL is a path."""

    @property
    def path(self) -> str:
        """Where it is."""
        return str(self.url)

    def pull(self, **_: object) -> None:
        """Nothing: it is here."""


def answer_without_embedding(request: types.GenerateRequest) -> types.GenerateResponse:
    """An answer of osam without a million numbers in JSON, which nobody here reads and most of the time went into."""
    return generate(request=request).model_copy(update={"image_embedding": None})


generate, apis.generate = apis.generate, answer_without_embedding


if __name__ == "__main__":
    for name, paths in json.loads(sys.argv[1]).items():
        kind = apis.get_model_type_by_name(name)
        kind._blobs = {role: LocalBlob(url=path, hash="sha256:0") for role, path in paths.items()}
    # Where osam writes its log.
    (Path.home() / ".cache" / "osam").mkdir(parents=True)
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="info")
