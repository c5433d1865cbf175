"""What killed processes leave behind in a folder of ours."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Final

TEMPORARY: Final = "osamd-part-"
# Nobody writes one file for so long.
ABANDONED_S: Final = 3600.0


def sweep(folder: Path) -> None:
    """Delete temporary folders that nobody has touched for an hour."""
    for left in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)
