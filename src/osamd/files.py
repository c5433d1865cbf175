"""Folders of ours: whether they can be used, and what killed processes leave behind in them."""

import contextlib
import os
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


def folder_problem(folder: Path) -> str | None:
    """What keeps a folder, which need not exist yet, from being written; None when nothing does."""
    place = folder.absolute()
    # Like os.access, and unlike Path's own, this never raises for a folder that may not be entered.
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):  # noqa: PTH112
        return f"{place} is not a folder"
    if not os.access(place, os.R_OK | os.X_OK):
        return f"{place} may not be entered by this user (uid {os.geteuid()})"
    if not os.access(place, os.W_OK):
        return f"{place} may not be written by this user (uid {os.geteuid()})"
    return None
