"""Recognizes requests for a door ahead of authentication: its name for the logs, its paths, and where its key is."""

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from osamd.errors import RequestError
from osamd.server.door import Door, door_of
from osamd.server.guard.auth import own_path
from osamd.server.guard.key_channels import take_secrets
from osamd.server.problems import answer_error

SLASHES = re.compile("/{2,}")


class DoorMiddleware:
    """Prepares requests for doors.

    Stores the door's name in ``scope["state"]["door"]``. Tools join the server's URL and their own path with a slash,
    whether or not the user's URL ends with one, so repeated slashes in a door's path count as one.

    Args:
        app: the app behind it.
        doors: the open doors.
    """

    def __init__(self, app: ASGIApp, *, doors: Sequence[Door]) -> None:
        self._app = app
        self._doors = tuple(doors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Prepare an HTTP request."""
        door = self._recognize(scope) if scope["type"] == "http" else None
        if door is not None and door.reads_query_and_body:
            try:
                receive = await take_secrets(scope, receive)
            except RequestError as error:
                await answer_error(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _recognize(self, scope: Scope) -> Door | None:
        own = own_path(scope)
        single = SLASHES.sub("/", own)
        if single != own and any(door.covers(single) for door in self._doors):
            scope["path"] = scope["path"].removesuffix(own) + single
        door = door_of(self._doors, scope)
        if door is not None:
            scope.setdefault("state", {})["door"] = door.name
        return door
