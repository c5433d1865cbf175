"""A process that pulls one blob, as ``python pull_process.py CACHE URL SHA256``, and writes a line for each event."""

import sys
from pathlib import Path

from osamd.events import PullProgress
from osamd.library.catalog import Blob, Model
from osamd.library.downloads import Patience
from osamd.library.store import Store


def show(event: PullProgress) -> None:
    """Status, completed and total bytes."""
    sys.stdout.write(f"{event.status} {event.completed} {event.total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    cache, url, sha256 = sys.argv[1:]
    model = Model("mine:latest", "sam", {"encoder": Blob(url, sha256)})
    Store(Path(cache), patience=Patience(connect_s=10, read_s=10, rounds=1, backoff_s=0.01)).pull(model, show)
