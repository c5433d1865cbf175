"""A request parser that ignores offers of another protocol (``Upgrade``), as this server speaks HTTP/1.1 only.

llhttp stops after a head that offers an upgrade and leaves the body to the other protocol. uvicorn then drops the body
that came with the head, and runs one that comes later as new requests. RFC 9110, section 7.8, lets a server ignore the
offer, and then the request is one like any other: its body is read and it gets one answer.
"""

from typing import Any, Final

from httptools import HttpParserUpgrade, HttpRequestParser

CONNECT: Final = b"CONNECT"
UPGRADE: Final = b"upgrade"


class OfferlessParser:
    """httptools' parser with the same interface, which never stops at an offer.

    After the head of a request with an offer, a fresh parser is given the same head without it, and goes on with what
    follows. The connection hears of each part once.

    Args:
        connection: told of the parts of each request, as httptools tells its protocol.
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
            HttpParserUpgrade: after CONNECT, which has no body; the connection is expected to refuse that before.
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
        """Never: offers are ignored."""
        return False

    def on_message_begin(self) -> None:
        """The first bytes of a request."""
        self._url.clear()
        self._headers.clear()
        if not self._is_repeated:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Some of the request line."""
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
        """Some of a body."""
        self._connection.on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete, which the head of one with an offer is not."""
        if not self._has_offer:
            self._connection.on_message_complete()

    def _fresh(self) -> HttpRequestParser:
        parser = HttpRequestParser(self)
        # As uvicorn sets it: a request that came behind one that closes the connection does not cost the first answer.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _head_without_offer(self) -> bytes:
        line = b"%s %s HTTP/%s\r\n" % (self.get_method(), b"".join(self._url), self.get_http_version().encode())
        return b"".join([line, *self._headers, b"\r\n"])
