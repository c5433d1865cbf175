"""A door: another tool's protocol as a value that ``create_app`` takes.

A route of a door ends in ``answering.answer`` with two pure functions, body to ask and result to reply. What cannot be
said there, because it happens before a route is reached, is said here.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from starlette.types import Scope

from osamd.server.guard.auth import header_secrets, own_path

# Of osamd's own errors (RFC 9457).
MEDIA_TYPE: Final = "application/problem+json"

# The keys a request carries in one place, without white space around them; one that comes twice is no key.
KeyChannel = Callable[[Scope], Sequence[bytes]]
# A problem, as in ``osamd.server.problems.Problem``, to a body and its media type.
WriteError = Callable[[Mapping[str, Any]], tuple[bytes, str]]


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Another tool's protocol.

    Attributes:
        paths: of its routes; one that ends in a slash stands for all below it. No other routes may be there.
        router: its routes.
        write_error: how it writes an error, also one from before a route is reached, such as a wrong key.
        key_channels: where its clients may put their key, the strongest first: the first that holds any counts.
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
    """The door that a request is for; None for osamd's own routes."""
    return next((door for door in doors if door.covers(scope)), None)


def read_secrets(doors: Iterable[Door], scope: Scope) -> Sequence[bytes]:
    """The keys that a request carries, in the first channel of its door that holds any."""
    door = door_of(doors, scope)
    for channel in (header_secrets,) if door is None else door.key_channels:
        if secrets := channel(scope):
            return secrets
    return ()


def write_problem(doors: Iterable[Door], scope: Scope, problem: Mapping[str, Any]) -> tuple[bytes, str]:
    """A problem as its door writes it, or as osamd does: body and media type."""
    door = door_of(doors, scope)
    return (json.dumps(problem).encode(), MEDIA_TYPE) if door is None else door.write_error(problem)
