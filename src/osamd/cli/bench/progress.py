"""Progress of the measurement: one line on stderr, in a terminal."""

import sys
import time

WIDTH = 30
# Often enough to look alive, rarely enough not to affect the timings.
REFRESH_S = 0.1


class Progress:
    """A bar for each phase. Silent if stderr is not a terminal."""

    def __init__(self) -> None:
        self._is_watched = sys.stderr.isatty()
        self._shown_at = 0.0

    def show(self, phase: str, share: float) -> None:
        """Draw the bar.

        Args:
            phase: what is being measured.
            share: how much of it is done, 0 to 1.
        """
        now = time.monotonic()
        if not self._is_watched or (share < 1 and now - self._shown_at < REFRESH_S):
            return
        self._shown_at = now
        bar = ("#" * int(share * WIDTH)).ljust(WIDTH, ".")
        sys.stderr.write(f"\r\033[K[{bar}] {phase}")
        sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        if self._is_watched:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
