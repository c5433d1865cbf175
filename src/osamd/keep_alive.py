"""How long a model stays loaded after it was used, in the spelling Ollama's users know."""

import re
from typing import Final

# Seconds; PINNED: forever; None: until the memory is needed.
KeepAlive = float | None
PINNED: Final = -1.0
UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
SPELLING: Final = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h|)")
LONGEST_S: Final = 366 * 86400.0


def parse_keep_alive(value: object) -> KeepAlive:
    """``"5m"``, ``"90s"``, a number of seconds, 0: unload immediately, negative: forever, None or "": unspecified.

    Raises:
        ValueError: none of these, such as True or a list.
    """
    if value is None or value == "":
        return None
    match = SPELLING.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("expected a duration such as 5m, 90s, a number of seconds, 0 or -1")
    number, unit = match.groups()
    seconds = float(number) * UNITS[unit]
    return PINNED if seconds < 0 else min(seconds, LONGEST_S)


def at_most(wish: KeepAlive, allowed: KeepAlive) -> KeepAlive:
    """Cap a requested duration; if the allowed one is None (until memory is needed), nothing is capped."""
    if wish is None or allowed is None or allowed == PINNED:
        return wish
    return allowed if wish == PINNED else min(wish, allowed)
