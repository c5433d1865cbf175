"""Parse the lines of everything mode."""

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from osamd.client.replies import FoundObject, Handle, Progress, error_kind, found_object, progress_of
from osamd.errors import UnreachableError

ACCEPT_LINES = {"Accept": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Dropped:
    """Masks to forget, because better ones of the same objects were found.

    Attributes:
        numbers: their ``FoundObject.number``.
    """

    numbers: tuple[int, ...]


EverythingUpdate: TypeAlias = Handle | FoundObject | Dropped | Progress


def update_of(line: str) -> EverythingUpdate:
    """One line.

    Raises:
        OsamdError: it says that the request failed.
        UnreachableError: it is not osamd's.
    """
    try:
        raw: dict[str, Any] = json.loads(line)
        match raw["event"]:
            case "image":
                return Handle(**{name: raw[name] for name in ("image_id", "model", "width", "height", "expires_at")})
            case "annotation":
                return found_object(raw["annotation"])
            case "dropped":
                return Dropped(tuple(raw["numbers"]))
            case "error":
                problem = error_kind(raw["code"])(raw["detail"])
            case _:
                return progress_of(raw)
    except (ValueError, KeyError, TypeError):
        raise UnreachableError("unexpected line in the answer: is this an osamd server?") from None
    raise problem


def check_ended(last: EverythingUpdate | None) -> None:
    """Refuse a stream without its last line.

    Raises:
        UnreachableError: the connection was lost.
    """
    if not isinstance(last, Progress) or last.stopped is None:
        raise UnreachableError("the answer ended before its last line: the connection was lost")
