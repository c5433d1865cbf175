"""osam's own server on local graphs: ``python peer_process.py PORT LOGS '{"sam:100m": {"encoder": "/..."}}'``."""

import json
import os
import sys
from pathlib import Path

import uvicorn
from osam import apis, types


class LocalBlob(types.Blob):  # type: ignore[misc]
    """A blob that is not pulled; its URL is a path."""

    @property
    def path(self) -> str:
        """Where it is."""
        return str(self.url)

    def pull(self, **_: object) -> None:
        """Nothing: it is here."""


def main() -> None:
    """Serve until stopped."""
    port, home, models = sys.argv[1:]
    os.environ["HOME"] = home  # osam writes its log below it
    (Path(home) / ".cache" / "osam").mkdir(parents=True, exist_ok=True)
    for name, paths in json.loads(models).items():
        kind = apis.get_model_type_by_name(name)
        kind._blobs = {role: LocalBlob(url=path, hash="sha256:0") for role, path in paths.items()}  # noqa: SLF001
    uvicorn.run("osam._server:app", host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
