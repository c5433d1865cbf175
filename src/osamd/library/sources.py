"""Why a source of a download did not give it, and when to ask it again."""

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime

# More than anybody would wait, and still a number that fits a header.
LONGEST_S = 86_400.0


class SourceError(Exception):
    """A source did not give the file; another try or another source may."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooSlowError(SourceError):
    """A source gives the file at a speed that another one may beat."""


class RefusedError(SourceError):
    """A source will not give the file however often it is asked."""


class NoRoomError(RefusedError):
    """A source says that its file is larger than what is free, which another one may not."""


class WrongContentError(RefusedError):
    """A source gives another file."""


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds a server asks to be left alone; 0 when it does not."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return min(float(value), LONGEST_S)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), LONGEST_S)
