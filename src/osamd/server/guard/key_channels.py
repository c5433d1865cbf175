"""Where the clients of other tools put their key: headers, and for some the query or the beginning of the body.

Imports nothing else of osamd, like ``auth``.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from osamd.server.guard.auth import Message, Receive, Scope

# Key in the request's state under which keys taken from the query and the body are kept until they are checked.
TAKEN_STATE: Final = "taken_secrets"
# Set where the body was searched for a key: the head alone then does not identify the caller.
SEARCHED_STATE: Final = "is_body_searched"
NAME: Final = b"api_key"
# How much of a body is searched for a key. The whole body of somebody without a key is never read: it may be large.
SEARCHED_BYTES: Final = 8 * 1024
# A quoted string that follows the name; not within another string, where its quotes would be escaped.
IN_BODY: Final = re.compile(rb'(?<!\\)"api_key"\s{0,64}:\s{0,64}("(?:[^"\\]|\\.){0,1024}")')


def given_secrets(scope: Scope) -> Sequence[bytes]:
    """The different keys of a request, in its headers or taken by ``take_secrets``; empty ones do not count."""
    found: list[bytes] = list(scope.get("state", {}).pop(TAKEN_STATE, ()))
    for name, value in scope["headers"]:
        if name in {b"x-api-key", b"token"}:
            found.append(value.strip())
        elif name == b"authorization":
            found.append(_of_authorization(value))
    return list(dict.fromkeys(filter(None, found)))


def _of_authorization(value: bytes) -> bytes:
    scheme, _, given = value.strip().partition(b" ")
    given = given.strip()
    if scheme.lower() == b"bearer":
        return given
    if scheme.lower() != b"basic":
        return b""
    try:
        pair = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        # Not a password, so it is counted as a wrong key.
        return given
    return pair.partition(b":")[2]


async def take_secrets(scope: Scope, receive: Receive) -> Receive:
    """Take the key out of the query and the beginning of the body, for ``given_secrets``.

    The query loses it, so that it cannot get into access logs and traces.

    Returns:
        What to receive the whole body with.
    """
    rest, taken = [], []
    for pair in scope.get("query_string", b"").split(b"&"):
        name, _, value = pair.partition(b"=")
        if unquote_to_bytes(name.replace(b"+", b" ")) == NAME:
            taken.append(unquote_to_bytes(value.replace(b"+", b" ")).strip())
        else:
            rest.append(pair)
    if taken:
        scope["query_string"] = b"&".join(rest)
    begun: list[Message] = []
    if scope["method"] not in {"GET", "HEAD"}:
        begun, start = await _begin(receive)
        taken += _of_body(start)
        scope.setdefault("state", {})[SEARCHED_STATE] = True
    scope.setdefault("state", {})[TAKEN_STATE] = taken

    async def replay() -> Message:
        return begun.pop(0) if begun else await receive()

    return replay


async def _begin(receive: Receive) -> tuple[list[Message], bytes]:
    """Receive the beginning of a body: its messages, and their bytes as far as they are searched."""
    messages: list[Message] = []
    start = b""
    searched = 0
    while len(start) < SEARCHED_BYTES:
        message = await receive()
        messages.append(message)
        start += message.get("body", b"")[: SEARCHED_BYTES - len(start)]
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
        # Not after every byte of a client that sends them one by one.
        if len(start) >= 2 * searched:
            searched = len(start)
            if _of_body(start):
                break
    return messages, start


def _of_body(start: bytes) -> list[bytes]:
    found = []
    for match in IN_BODY.finditer(start):
        try:
            text = json.loads(match[1])
        except ValueError:
            continue
        found.append(text.strip().encode("utf-8", "surrogatepass"))
    return found
