"""Routes with what the OpenAPI document says of them. ``osamd.server.openapi`` writes it, which no server imports."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from osamd.errors import OsamdError

Handler = Callable[[Request], Awaitable[Response]]

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """What the OpenAPI document says of a route, besides its path, its method and its handler's docstring.

    Attributes:
        summary: what it does, in a few words.
        body: the pydantic model of its body, if it reads one.
        query: names of optional query parameters, all strings.
        errors: what it may answer besides the errors of every guarded route.
        replies: what it replies with on success, by media type: a type, or None for bytes. Empty: nothing.
        success: the status of a success.
        success_is: what a success means.
        statuses: what other statuses, which are not errors, mean.
        is_public: whether it needs no key.
    """

    summary: str
    body: type[BaseModel] | None = None
    query: Sequence[str] = ()
    errors: Sequence[type[OsamdError]] = ()
    replies: Mapping[str, Any] = field(default_factory=lambda: {JSON: Any})
    success: int = 200
    success_is: str = "Successful Response"
    statuses: Mapping[int, str] = field(default_factory=dict)
    is_public: bool = False


class OperationRoute(Route):
    """A route for one method. Unlike Starlette's own, one for GET does not answer HEAD by itself.

    Args:
        method: in capitals.
        path: with its parameters in braces; all are strings.
        handler: answers it.
        operation: what the document says; None leaves the route out.
        tag: the group of operations it belongs to.
    """

    def __init__(self, method: str, path: str, handler: Handler, operation: Operation | None, tag: str | None) -> None:
        super().__init__(path, handler, methods=[method], include_in_schema=operation is not None)
        self.method = method
        self.methods = {method}
        self.operation = operation
        self.tag = tag


class Operations:
    """The routes of one family, collected by decorators.

    Args:
        prefix: of their paths.
        tag: their group in the document; None for a door, whose name it is.
    """

    def __init__(self, prefix: str = "", *, tag: str | None = None) -> None:
        self._prefix = prefix
        self._tag = tag
        self.routes: list[OperationRoute] = []

    def head(self, path: str) -> Callable[[Handler], Handler]:
        """Answer HEAD; the document does not mention it."""
        return self._adding("HEAD", path, None)

    def get(self, path: str, operation: Operation | None = None) -> Callable[[Handler], Handler]:
        """Answer GET."""
        return self._adding("GET", path, operation)

    def post(self, path: str, operation: Operation | None = None) -> Callable[[Handler], Handler]:
        """Answer POST."""
        return self._adding("POST", path, operation)

    def delete(self, path: str, operation: Operation | None = None) -> Callable[[Handler], Handler]:
        """Answer DELETE."""
        return self._adding("DELETE", path, operation)

    def _adding(self, method: str, path: str, operation: Operation | None) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.routes.append(OperationRoute(method, self._prefix + path, handler, operation, self._tag))
            return handler

        return add
