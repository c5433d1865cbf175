"""uvicorn's HTTP connection, which waits for no client for ever.

``serve`` uses it by itself; uvicorn's own command by ``--http osamd.server.connections:PatientConnection``.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from osamd.events import ConnectionCut, Sink
from osamd.server.context import SETTINGS_STATE, SINKS_STATE
from osamd.settings import Settings

# The app has answered or cut off a slow body by then; what comes here nobody reads.
UNREAD_BODY_EXTRA_S = 5.0
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PatientConnection(HttpToolsProtocol):
    """Bounds how many connections there are, how long a head and a body take, and how long a client does not read."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        settings = self.app_state.get(SETTINGS_STATE)
        self._settings: Settings = settings if isinstance(settings, Settings) else Settings()
        self._sinks: tuple[Sink, ...] = self.app_state.get(SINKS_STATE, ())
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        # Whether some of a head is here, and how many requests with a whole head are without their whole answer.
        self._has_begun = False
        self._open = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.max_connections:
            self._tell("too_many_connections")
            transport.write(TOO_MANY)
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        super().data_received(data)
        # uvicorn no longer waits for the next head, and be it only a line's end that came.
        if self._reading is None and not self._open and self.timeout_keep_alive_task is None:
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """What came was no HTTP."""
        self._tell("not_http")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """The first bytes of a head."""
        super().on_message_begin()
        self._has_begun = True
        if self._reading is None and not self._open:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is here, the body is to come."""
        self._stop_waiting()
        self._has_begun = False
        self._open += 1
        super().on_headers_complete()
        # One behind another is not read until that is answered.
        if not self.pipeline:
            self._await_body()

    def on_message_complete(self) -> None:
        """All of a request is here."""
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out; one that was waiting may begin."""
        self._open -= 1
        super().on_response_complete()
        if self._reading is not None:
            return
        if self._open and self.cycle.more_body:
            self._await_body()
        elif not self._open and self._has_begun:
            self._await_head()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._writing = self.loop.call_later(self._settings.send_idle_s, self._give_up, "answer_unread")

    def resume_writing(self) -> None:
        """It reads again."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

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
        # A connection on which nothing was asked is closed without a word, as browsers that open some ahead expect.
        if self._has_begun:
            self._tell("head_timeout")
            self.transport.write(TOO_SLOW)
        self.transport.close()

    def _give_up(self, code: str) -> None:
        self._tell(code)
        self.transport.abort()

    def _tell(self, code: str) -> None:
        event = ConnectionCut(code, self.client[0] if self.client else None)
        for sink in self._sinks:
            sink(event)
