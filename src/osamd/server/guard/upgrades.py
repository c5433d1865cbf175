"""A request parser that ignores ``Upgrade`` headers, since this server supports HTTP/1.1 only.

llhttp stops after a head with an upgrade and leaves the body to the other protocol. uvicorn then drops the part of the
body that came with the head, and parses a later part as new requests. RFC 9110, section 7.8, allows a server to ignore
the header; the request is then handled like any other: its body is read and it gets one answer.
"""

from types import SimpleNamespace
from typing import Any, Final

from httptools import HttpParserUpgrade, HttpRequestParser

CONNECT: Final = b"CONNECT"
UPGRADE: Final = b"upgrade"


def _ignore(*_: bytes) -> None:
    """Do nothing."""


# Receives callbacks in place of a connection.
NOBODY: Final = SimpleNamespace(
    on_message_begin=_ignore,
    on_url=_ignore,
    on_header=_ignore,
    on_headers_complete=_ignore,
    on_body=_ignore,
    on_message_complete=_ignore,
)


class OfferlessParser:
    """A parser with httptools' interface that never stops at an upgrade.

    After a head with ``Upgrade``, a fresh parser is fed the same head without that header, and continues with the rest.
    The connection gets each callback once.

    Args:
        connection: receives the callbacks, as an httptools protocol does.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._url: list[bytes] = []
        self._headers: list[bytes] = []
        self._has_offer = False
        self._is_repeated = False
        self._parser = self._fresh()

    def feed_data(self, data: bytes) -> None:
        """Parse some bytes.

        Raises:
            HttpParserError: they are not HTTP, or the connection raised.
            HttpParserUpgrade: after CONNECT, which has no body; the connection should refuse it earlier.
        """
        while True:
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as stopped:
                if not self._has_offer:
                    raise
                data = self._head_without_offer() + data[stopped.args[0] :]
                self._has_offer, self._is_repeated = False, True
                self._parser = self._fresh()
            else:
                return

    def ignore_rest(self) -> None:
        """Parse what follows without calling the connection."""
        self._connection = NOBODY

    def get_method(self) -> bytes:
        """The method of the current request."""
        return self._parser.get_method()

    def get_http_version(self) -> str:
        """The version of the current request, such as ``1.1``."""
        return self._parser.get_http_version()

    def should_keep_alive(self) -> bool:
        """Whether the client may send another request after this one."""
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Always False: upgrades are ignored."""
        return False

    def on_message_begin(self) -> None:
        """The first bytes of a request."""
        self._url.clear()
        self._headers.clear()
        if not self._is_repeated:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._url.append(url)
        if not self._is_repeated:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer."""
        if name.lower() != UPGRADE:
            self._headers.append(name + b": " + value + b"\r\n")
        if not self._is_repeated:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._has_offer = self._parser.should_upgrade() and self._parser.get_method() != CONNECT
        if not self._has_offer:
            self._is_repeated = False
            self._connection.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._connection.on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete; not called after a head that is still to be repeated without ``Upgrade``."""
        if not self._has_offer:
            self._connection.on_message_complete()

    def _fresh(self) -> HttpRequestParser:
        parser = HttpRequestParser(self)
        # As in uvicorn: data after a request that closes the connection must not prevent its answer.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _head_without_offer(self) -> bytes:
        line = b"%s %s HTTP/%s\r\n" % (self.get_method(), b"".join(self._url), self.get_http_version().encode())
        return b"".join([line, *self._headers, b"\r\n"])
