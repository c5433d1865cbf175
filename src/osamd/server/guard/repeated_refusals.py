"""``RepeatedRefusals``: answers that a connection may give again without asking the app."""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from osamd.events import RequestDone
from osamd.server.guard.limits import declared_bytes

# Limit on remembered refusals; the oldest are forgotten first.
MOST_REMEMBERED: Final = 1024
# How long a refusal is repeated before the app is asked again. A key that is revoked meanwhile is refused either way.
REPEAT_S: Final = 1.0
# Limit on the headers of a request that is refused again.
MOST_HEADER_BYTES: Final = 4 * 1024
# The header and the body's field.
PLACES_OF_ID: Final = 2
# An answer depends on more than the head then, or repeats the request's own id.
NEVER_REPEATED: Final = frozenset({b"expect", b"transfer-encoding", b"upgrade", b"x-request-id"})
# Differ with each request, and no refusal depends on them: the body's length, and ids that hosts and proxies assign.
IGNORED: Final = frozenset(
    {b"content-length", b"traceparent", b"cf-ray", b"fly-request-id", b"x-amzn-trace-id", b"x-cloud-trace-context"}
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer as it was sent, and what else its request had brought about.

    Attributes:
        answer: head and body.
        event: what was told when it was done.
        is_still_due: whether the same request would be refused for the same reason now.
        until: when the app must be asked again, on the clock ``time.monotonic``.
    """

    answer: bytes
    event: RequestDone
    is_still_due: Callable[[], bool]
    until: float

    def answer_to(self, request_id: str) -> bytes:
        """The same answer to another request."""
        return self.answer.replace(self.event.request_id.encode(), request_id.encode())

    def event_of(self, request_id: str, *, begun: float, traceparent: str | None) -> RequestDone:
        """What to tell about another request, which is answered now and began at ``begun``, in seconds since 1970."""
        seconds = max(0.0, time.time() - begun)
        return replace(self.event, request_id=request_id, begun=begun, seconds=seconds, traceparent=traceparent)


class RepeatedRefusals:
    """Remembers how requests with images were refused while a queue was full, by all that the answer depends on.

    Under overload most of the processor would go into refusals otherwise: into the task, the authentication and the
    formatting of each. An image is refused again without them if the same client was refused for the same head less
    than ``REPEAT_S`` ago and the queue is still full. Middleware that others put around the app sees only what the app
    answers itself. Belongs to one event loop.

    Args:
        least_bytes: of bodies with an image.
        most_bytes: of bodies.
    """

    def __init__(self, *, least_bytes: int, most_bytes: int) -> None:
        self._least_bytes = least_bytes
        self._most_bytes = most_bytes
        self._refusals: dict[bytes, Refusal] = {}

    def request_of(self, line: tuple[object, ...], headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """A digest of all that a refusal depends on, which reveals no key; None if it must not be repeated.

        Args:
            line: method, target, version of HTTP and the client's address.
            headers: with lower-case names.
        """
        size = 0
        kept: list[object] = [line]
        header_bytes = 0
        for name, value in headers:
            if name in NEVER_REPEATED:
                return None
            if name == b"content-length":
                size = declared_bytes(value) or 0
            if name not in IGNORED:
                header_bytes += len(name) + len(value)
                kept.append((name, value))
        if not self._least_bytes < size <= self._most_bytes or header_bytes > MOST_HEADER_BYTES:
            return None
        return hashlib.sha256(repr(kept).encode()).digest()

    def remember(self, request: bytes, answer: bytes, event: RequestDone, is_still_due: Callable[[], bool]) -> None:
        """Remember how a request was refused, unless its id cannot be replaced, as in a compressed body."""
        if answer.count(event.request_id.encode()) != PLACES_OF_ID:
            return
        self._refusals.pop(request, None)
        if len(self._refusals) >= MOST_REMEMBERED:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[request] = Refusal(answer, event, is_still_due, time.monotonic() + REPEAT_S)

    def find(self, request: bytes) -> Refusal | None:
        """How a request is to be refused again; None if the app must be asked."""
        refusal = self._refusals.get(request)
        is_due = refusal is not None and time.monotonic() < refusal.until and refusal.is_still_due()
        return refusal if is_due else None
