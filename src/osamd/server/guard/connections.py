"""uvicorn's HTTP protocol class, with limits on slow clients, heads and the number of connections.

``serve`` uses it by default; uvicorn's own command with ``--http osamd.server.guard.connections:PatientConnection``.
"""

import asyncio
import ipaddress
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from osamd.events import ConnectionCut, Sink, tell
from osamd.server.guard.auth import address_of
from osamd.server.guard.joined_writes import JoinedHead, write_and_close
from osamd.server.guard.limits import STILL_DUE_STATE
from osamd.server.guard.repeated_refusals import Refusal, RepeatedRefusals
from osamd.server.guard.upgrades import CONNECT, OfferlessParser
from osamd.server.services import REFUSALS_STATE, SETTINGS_STATE, SINKS_STATE
from osamd.server.telemetry.observe import EVENT_STATE, new_request_id
from osamd.settings import Settings

# Limits on the total size of the unanswered requests' heads and trailers on a connection, and on a single line.
MOST_HEAD_BYTES: Final = 64 * 1024
# The colon, the space and the line break.
HEADER_EXTRA_BYTES: Final = 4
# Limit on pipelined requests; each costs far more memory than the bytes of a minimal head.
MOST_PIPELINED: Final = 64
# How long to keep reading and discarding what a refused client sends. Closing immediately would reset the connection,
# and the client would never read why it was refused.
LINGER_S: Final = 2.0
# How long a new connection has to send a key before it counts as keyless: legitimate clients may open many at once.
SHOW_KEY_S: Final = 1.0
# By then the app has answered or timed out a slow body; anything that still arrives is not read.
UNREAD_BODY_EXTRA_S = 5.0
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
NOT_HTTP_PROBLEM = (
    b'{"type": "about:blank", "title": "not_http", "status": 400, "code": "not_http", "detail": "expected an HTTP'
    b' request, with letters beyond ASCII percent-encoded in its path and query"}'
)
NOT_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(NOT_HTTP_PROBLEM), NOT_HTTP_PROBLEM)
)
NO_TUNNELS = b"HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _HeadRefusedError(Exception):
    """Stops the parser."""


class PatientConnection(HttpToolsProtocol):
    """Limits the number of connections, the size of heads, and the time of heads, bodies and reads.

    At the connection limit, idle connections are closed to make room for new ones.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # No other protocol is supported, whatever uvicorn finds installed.
        self.ws_protocol_class = None
        self.parser = OfferlessParser(self)  # type: ignore[assignment]
        settings = self.app_state.get(SETTINGS_STATE)
        self._settings: Settings = settings if isinstance(settings, Settings) else Settings()
        self.timeout_keep_alive = math.ceil(self._settings.idle_s)
        self._address = ""
        self._sinks: tuple[Sink, ...] = self.app_state.get(SINKS_STATE, ())
        self._refusals: RepeatedRefusals | None = self.app_state.get(REFUSALS_STATE)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._showing: asyncio.TimerHandle | None = None
        # Whether a head has been received in part, and how many requests await a complete answer.
        self._has_begun = False
        self._open = 0
        # Sizes of the unanswered heads; bytes since the parser's last callback; whether there was one.
        self._heads: deque[int] = deque()
        # State that the app attaches to those requests; whether the last authenticated one had a valid key.
        self._states: deque[Mapping[str, Any]] = deque()
        self._had_key = False
        self._untold = 0
        self._has_told = False
        self._is_refused = False
        # What identifies the only open request among those that may be refused again, and how it is.
        self._request: bytes | None = None
        self._repeated: Refusal | None = None
        self._begun = 0.0
        self._is_answered_again = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._address = address_of(self.client)
        if len(self.connections) > self._settings.max_connections and not self._make_room():
            self._refuse_connection()
            return
        self._await_head()
        # A proxy's connection carries requests of many clients, with and without keys.
        if not is_among(self.client, self._settings.trusted_proxies):
            self._showing = self.loop.call_later(SHOW_KEY_S, self._check_key_shown)

    def shutdown(self) -> None:
        """The server is stopping; a client that was refused again may finish sending, until a timer ends that."""
        if self._repeated is None:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected."""
        self._stop_waiting()
        if self._showing is not None:
            self._showing.cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request has arrived."""
        if self._is_refused:
            return
        self._has_told = False
        super().data_received(data)
        if self._repeated is not None and not self._is_answered_again:
            self._refuse_again(self._repeated, is_last=False)
            self._reading = self.loop.call_later(LINGER_S, self.transport.close)
        # The parser reports a header only once its line has ended.
        self._untold = 0 if self._has_told else self._untold + len(data)
        if self._untold > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()
        # uvicorn has stopped its keep-alive timer, even if only a line break arrived.
        if self._reading is None and not self._open and self.timeout_keep_alive_task is None:
            self._await_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words, which say less
        """The data was not HTTP, or we stopped the parser."""
        if self._is_refused:
            return
        self._tell("not_http")
        self.transport.write(NOT_HTTP)
        self.transport.close()

    def on_message_begin(self) -> None:
        """The first bytes of a head."""
        self._has_told = True
        if len(self._heads) >= MOST_PIPELINED:
            self._refuse_head()
            raise _HeadRefusedError
        self._heads.append(0)
        super().on_message_begin()
        self._states.append(self.scope["state"])
        self._has_begun = True
        if self._reading is None and not self._open:
            self._await_head()

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped, since the request was authenticated without them."""
        self._count(len(name) + len(value) + HEADER_EXTRA_BYTES)
        if self._has_begun:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Part of a body, which is limited elsewhere."""
        self._has_told = True
        if self._repeated is None:
            super().on_body(body)

    def on_headers_complete(self) -> None:
        """The head is complete, the body may follow."""
        self._has_told = True
        if self.parser.get_method() == CONNECT:
            # What follows belongs to a tunnel, so it must not be parsed as requests.
            self._refuse_head(NO_TUNNELS, "no_tunnels")
            raise _HeadRefusedError
        self._stop_waiting()
        self._has_begun = False
        self._open += 1
        self._repeated = self._refusal()
        if self._repeated is not None:
            self._begun = time.time()
            return
        super().on_headers_complete()
        self.cycle.transport = JoinedHead(self.transport, self.loop)  # type: ignore[assignment]
        # A pipelined request is not read until the previous one is answered.
        if not self.pipeline:
            self._await_body()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._has_told = True
        self._stop_waiting()
        if self._repeated is not None:
            # What follows on this connection is not answered.
            cast("OfferlessParser", self.parser).ignore_rest()
            self._is_refused = True
            if self._is_answered_again:
                self.transport.close()
            else:
                self._refuse_again(self._repeated, is_last=True)
            return
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been sent; a pipelined request may start."""
        self._open -= 1
        self._heads.popleft()
        state = self._states.popleft()
        self._had_key = _has_key(state, before=self._had_key)
        is_still_due, event = state.get(STILL_DUE_STATE), state.get(EVENT_STATE)
        if self._refusals is not None and self._request is not None and is_still_due is not None and event is not None:
            answer = cast("JoinedHead", self.cycle.transport).whole
            self._refusals.remember(self._request, answer, event, is_still_due)
        super().on_response_complete()
        if self._reading is not None:
            return
        if self._open and self.cycle.more_body:
            self._await_body()
        elif not self._open and self._has_begun:
            self._await_head()

    def pause_writing(self) -> None:
        """The client is not reading."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._settings.send_idle_s, self._give_up, "answer_unread")

    def resume_writing(self) -> None:
        """The client is reading again."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    @property
    def has_key(self) -> bool:
        """Whether the request being answered, or else the previous one, has a valid key."""
        return _has_key(self._states[0], before=self._had_key) if self._states else self._had_key

    @property
    def is_idle(self) -> bool:
        """Whether the connection is waiting for another request after an answered one."""
        return self.timeout_keep_alive_task is not None

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False if none is idle."""
        others: list[PatientConnection] = [other for other in self.connections if isinstance(other, PatientConnection)]
        idle = [other for other in others if other.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda other: cast("asyncio.TimerHandle", other.timeout_keep_alive_task).when())
        oldest.transport.close()
        return True

    def _refusal(self) -> Refusal | None:
        """How the request whose head is complete is to be refused without asking the app; None if the app is asked."""
        self._request = None
        if self._refusals is None or self._open > 1:
            return None
        line = (self.parser.get_method(), self.url, self.parser.get_http_version(), self.client and self.client[0])
        self._request = self._refusals.request_of(line, self.headers)
        return None if self._request is None else self._refusals.find(self._request)

    def _refuse_again(self, refusal: Refusal, *, is_last: bool) -> None:
        """Answer as the app would; nothing else is sent on this connection.

        Args:
            refusal: of a request with the same head.
            is_last: whether the request is complete, so that the connection may be closed.
        """
        request_id = new_request_id()
        answer = refusal.answer_to(request_id)
        self._is_answered_again = True
        if is_last:
            write_and_close(self.transport, answer)
        else:
            self.transport.write(answer)
        self.scope["state"]["key_name"] = refusal.event.key_name
        self.server_state.total_requests += 1
        trace = next((value.decode("latin-1") for name, value in self.headers if name == b"traceparent"), None)
        tell(self._sinks, refusal.event_of(request_id, begun=self._begun, traceparent=trace))

    def _check_key_shown(self) -> None:
        """Close this connection if its address has too many others without a key."""
        if self.has_key or self.transport.is_closing():
            return
        others = [other for other in self.connections if isinstance(other, PatientConnection) and other is not self]
        count = sum(
            other._address == self._address and not other.has_key and not other.transport.is_closing()  # noqa: SLF001
            for other in others
        )
        if count >= self._settings.keyless_connections:
            self._refuse_connection()

    def _refuse_connection(self) -> None:
        self._tell("too_many_connections")
        if self._open:
            self.transport.abort()
            return
        self._is_refused = True
        self.transport.write(TOO_MANY)
        self.transport.close()

    def _count(self, nbytes: int) -> None:
        """Count bytes of a head or its trailers."""
        self._has_told = True
        # Trailers of an answered request are dropped and not counted.
        if self._heads:
            self._heads[-1] += nbytes
        if sum(self._heads) > MOST_HEAD_BYTES:
            self._refuse_head()
            raise _HeadRefusedError

    def _refuse_head(self, answer: bytes = TOO_LARGE, code: str = "head_too_large") -> None:
        self._is_refused = True
        self._tell(code)
        self._stop_waiting()
        is_trailer = self._open == 1 and self.cycle.more_body and not self.cycle.response_started
        if not self._open or is_trailer:
            self.transport.write(answer)
        # Otherwise it would be taken for the answer to an earlier request.
        if self._open:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._reading = self.loop.call_later(LINGER_S, self.transport.abort)

    def _await_head(self) -> None:
        self._reading = self.loop.call_later(self._settings.head_s, self._give_up_head)

    def _await_body(self) -> None:
        until_s = self._settings.receive_s + UNREAD_BODY_EXTRA_S
        self._reading = self.loop.call_later(until_s, self._give_up, "body_unread")

    def _stop_waiting(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _give_up_head(self) -> None:
        self._reading = None
        # A connection without any request is closed silently, as browsers that preconnect expect.
        if self._has_begun:
            self._tell("head_timeout")
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _give_up(self, code: str) -> None:
        self._tell(code)
        self.transport.abort()

    def _tell(self, code: str) -> None:
        tell(self._sinks, ConnectionCut(code, self.client[0] if self.client else None))


def _has_key(state: Mapping[str, Any], *, before: bool) -> bool:
    """Whether a request had a valid key; the connection's previous state if it was not authenticated."""
    return "key_name" in state or (before and "code" not in state)


def is_among(client: tuple[str, int] | None, networks: Sequence[str]) -> bool:
    """Whether a client's address is in any of the networks."""
    if client is None or not networks:
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network) for network in networks)
