"""Why a source of a download failed, and when to retry it."""

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime

# Longer than any useful wait, and still fits a header.
LONGEST_S = 86_400.0


class SourceError(Exception):
    """A source failed; a retry or another source may succeed."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooSlowError(SourceError):
    """A source is too slow; another one may be faster."""


class RefusedError(SourceError):
    """A source refuses to serve the file; retrying is pointless."""


class NoRoomError(RefusedError):
    """A source claims a size that does not fit on the disk; another one may not."""


class WrongContentError(RefusedError):
    """A source serves a different file."""


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The seconds of ``Retry-After``; 0 without it."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return min(float(value), LONGEST_S)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), LONGEST_S)
