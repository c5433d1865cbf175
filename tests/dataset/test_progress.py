"""The progress bar of ``osamd batch``."""

import io
import sys

import pytest

from osamd.dataset.progress import Progress


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_counts_photos_and_failures(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """On a terminal; nothing is written to a file or a pipe."""
    told = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    with Progress(10) as progress:
        progress.skip(6, failed=1)
        progress.add(failed=0)
        progress.add(failed=1)
    if is_terminal:
        last = told.getvalue().split("\r")[-1]
        assert ("8/10" in last, "2 failed" in last, "photos/s" in last) == (True, True, True), last
    else:
        assert "" == told.getvalue()
