"""The suite itself."""

import subprocess
import sys
from pathlib import Path

from serving import clean_environment
from skips import NO_CHROMIUM

ROOT = Path(__file__).resolve().parents[1]


def test_missing_browser_is_reported_in_the_last_line(tmp_path: Path) -> None:
    """Who has no Chromium learns what was not tested and how to get it, however much was printed before."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "tests/browser/test_history.py",
    ]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment({}) | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, told = ended.stdout.splitlines()[-1].partition(" tests skipped: ")
    assert (True, NO_CHROMIUM) == (int(count) > 1, told)
