"""A door: another tool's protocol as a value that ``create_app`` takes.

Routes of a door call ``answering.answer`` with two pure functions, body to ask and result to reply. What happens before
a route is reached, such as authentication, is configured here.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Scope

from osamd.errors import with_field
from osamd.server.guard.auth import SEVERAL_KEYS, ErrorReply, header_secrets, own_path
from osamd.server.guard.key_channels import given_secrets
from osamd.server.operations import JSON, Operations

# Media type of osamd's own errors (RFC 9457).
MEDIA_TYPE: Final = "application/problem+json"
# Tools understand 401 as "the key is wrong", and 403 as something else.
STATUSES: Final = {"access_denied": 401}
KEY_ADVICE: Final = "the API key is missing or wrong"

# Turns a problem, as in ``osamd.server.problems.Problem``, into the reply that the tool understands.
WriteError = Callable[[Mapping[str, Any]], ErrorReply]


def json_errors(
    *, statuses: Mapping[str, int] | None = None, key_advice: str = KEY_ADVICE, challenge: str = "Bearer"
) -> WriteError:
    """Write errors as tools read them: ``application/json`` with ``message``, ``detail``, ``code``, ``request_id``.

    Args:
        statuses: HTTP statuses by code, where they differ from osamd's own; a missing or wrong key is 401.
        key_advice: the message for a missing or wrong key; should say where the tool takes it.
        challenge: the ``WWW-Authenticate`` header that 401 requires. ``Basic`` makes browsers ask for a password.
    """
    mapped = {**STATUSES, **(statuses or {})}

    def write(problem: Mapping[str, Any]) -> ErrorReply:
        status = mapped.get(problem["code"], problem["status"])
        is_advised = problem["code"] == "access_denied" and problem["detail"] != SEVERAL_KEYS
        detail = key_advice if is_advised else problem["detail"]
        # Tools show one text and nothing else.
        detail = with_field(detail, problem.get("field"))
        content = {**problem, "status": status, "message": detail, "detail": detail}
        headers = {"WWW-Authenticate": challenge} if status == 401 else {}  # noqa: PLR2004
        return ErrorReply(status, json.dumps(content).encode(), JSON, headers)

    return write


def never(_: Scope) -> bool:
    """No request."""
    return False


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Another tool's protocol.

    Its clients may put their key into the headers ``X-API-Key``, ``Token`` and ``Authorization`` (``Bearer``, or
    ``Basic`` with any user and the key as password). A request with two different keys is refused.

    Attributes:
        name: as in ``OSAMD_DOORS``; label of its metrics and logs, tag in the OpenAPI document.
        summary: one line about it for the OpenAPI document.
        paths: the paths of its routes; one that ends in a slash includes all below it. No other routes may be there.
        operations: its routes.
        write_error: writes an error, including one raised before a route is reached, such as a wrong key.
        reads_query_and_body: whether the key may also be ``api_key`` in the query or at the beginning of a JSON body.
        is_public: whether a request needs no key at all; it then has no caller, so it cannot segment.
        is_keyless: whether the tool cannot send a key: clients in ``OSAMD_KEYLESS_NETWORKS`` need none, and are the
            user ``anonymous``.
    """

    name: str
    summary: str
    paths: tuple[str, ...]
    operations: Operations
    write_error: WriteError = field(default_factory=json_errors)
    reads_query_and_body: bool = False
    is_public: Callable[[Scope], bool] = never
    is_keyless: bool = False

    def covers(self, path: str) -> bool:
        """Whether a path, without the prefix of a proxy or mount, belongs to this door."""
        return path in self.paths or path.startswith(_folders(self.paths))


@functools.cache
def _folders(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Those that include all below them. Looked up several times for each request, also for refused ones."""
    return tuple(path for path in paths if path.endswith("/"))


def door_of(doors: Iterable[Door], scope: Scope) -> Door | None:
    """The door that handles a request; None for osamd's own routes."""
    path = own_path(scope)
    return next((door for door in doors if door.covers(path)), None)


def read_secrets(doors: Iterable[Door], scope: Scope) -> Sequence[bytes]:
    """The keys that a request carries: different ones for a door, all for osamd's own routes."""
    return header_secrets(scope) if door_of(doors, scope) is None else given_secrets(scope)


def write_problem(doors: Iterable[Door], scope: Scope, problem: Mapping[str, Any]) -> ErrorReply:
    """Write a problem as its door does, or as osamd does."""
    door = door_of(doors, scope)
    if door is None:
        return ErrorReply(problem["status"], json.dumps(problem).encode(), MEDIA_TYPE)
    return door.write_error(problem)
