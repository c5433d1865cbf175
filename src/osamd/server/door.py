"""A door: another tool's protocol as a value that ``create_app`` takes.

Routes of a door call ``answering.answer`` with two pure functions, body to ask and result to reply. What happens before
a route is reached, such as authentication, is configured here.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from starlette.types import Scope

from osamd.server.guard.auth import header_secrets, own_path

# Media type of osamd's own errors (RFC 9457).
MEDIA_TYPE: Final = "application/problem+json"

# The keys that a request carries in one channel, stripped of white space; a repeated one is not valid.
KeyChannel = Callable[[Scope], Sequence[bytes]]
# Turns a problem, as in ``osamd.server.problems.Problem``, into a body and its media type.
WriteError = Callable[[Mapping[str, Any]], tuple[bytes, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Another tool's protocol.

    Attributes:
        paths: the paths of its routes; one that ends in a slash includes all below it. No other routes may be there.
        router: its routes.
        write_error: writes an error, including one raised before a route is reached, such as a wrong key.
        key_channels: where its clients may put their key, in order of precedence: the first that contains any counts.
    """

    paths: tuple[str, ...]
    router: APIRouter
    write_error: WriteError
    key_channels: tuple[KeyChannel, ...] = (header_secrets,)

    def covers(self, scope: Scope) -> bool:
        """Whether a request is for this door."""
        path = own_path(scope)
        return any(path == own or (own.endswith("/") and path.startswith(own)) for own in self.paths)


def door_of(doors: Iterable[Door], scope: Scope) -> Door | None:
    """The door that handles a request; None for osamd's own routes."""
    return next((door for door in doors if door.covers(scope)), None)


def read_secrets(doors: Iterable[Door], scope: Scope) -> Sequence[bytes]:
    """The keys that a request carries, from the first channel of its door that contains any."""
    door = door_of(doors, scope)
    for channel in (header_secrets,) if door is None else door.key_channels:
        if secrets := channel(scope):
            return secrets
    return ()


def write_problem(doors: Iterable[Door], scope: Scope, problem: Mapping[str, Any]) -> tuple[bytes, str]:
    """Write a problem as its door does, or as osamd does: body and media type."""
    door = door_of(doors, scope)
    return (json.dumps(problem).encode(), MEDIA_TYPE) if door is None else door.write_error(problem)
