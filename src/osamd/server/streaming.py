"""``EverythingStream``: answers everything mode line by line, as masks are found."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from osamd.errors import ClientGoneError, OsamdError
from osamd.image_sources import ImageSource
from osamd.server.accept import NDJSON
from osamd.server.answering import Parse, answered, asked
from osamd.server.answers import Context
from osamd.server.asks import Ask, Write, WriteLines
from osamd.server.problems import INTERNAL_CODE, INTERNAL_DETAIL
from osamd.server.services import services_of

How = TypeVar("How")

logger = logging.getLogger("osamd")

# Takes an error's code and message.
WriteError = Callable[[str, str], bytes]
# Proxies that buffer replies would hold back the lines; nginx reads this header.
UNBUFFERED: Final = {"X-Accel-Buffering": "no", "Cache-Control": "no-store", "Vary": "Accept"}


class EverythingStream(Response, Generic[How]):
    """Answers a request in everything mode in lines; other requests are answered by ``write``, as in ``answer``.

    Errors before the first line are raised, later ones become the last line.

    Args:
        request: with its body unread.
        parse: body to ask; raises ``RequestError``.
        write: result to content.
        write_lines: update to lines.
        write_error: the last line of a stream that failed.
    """

    def __init__(
        self,
        request: Request,
        parse: Parse[How],
        write: Write[How],
        *,
        write_lines: WriteLines[How],
        write_error: WriteError,
    ) -> None:
        super().__init__(media_type=NDJSON)
        self._request = request
        self._parse, self._write = parse, write
        self._write_lines, self._write_error = write_lines, write_error
        self._is_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, in the task of the request, which is cancelled at its deadline and when its client disconnects."""
        other: Response | None = None
        last = b""
        try:
            async with asked(self._request, self._parse) as (ask, image, context):
                if ask.everything is None:
                    other = await answered(self._request, ask, image, context, self._write)
                else:
                    await self._stream(ask, image, context, send)
        except ClientGoneError as error:
            if not self._is_begun:
                raise
            # An error would be logged as one of the server's.
            self._request.state.code = error.code
            return
        except OsamdError as error:
            if not self._is_begun:
                raise
            last = self._failed(error.code, error.public_message)
        # The status 200 has been sent: without a last line the caller would take the truncated stream for a success.
        except Exception:
            if not self._is_begun:
                raise
            logger.exception("unexpected error in everything mode")
            last = self._failed(INTERNAL_CODE, INTERNAL_DETAIL)
        if other is not None:
            await other(scope, receive, send)
        else:
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _stream(self, ask: Ask[How], image: ImageSource, context: Context, send: Send) -> None:
        stream = services_of(self._request).answers.stream(ask, image, context, self._write_lines)
        async with contextlib.aclosing(stream):
            async for update in stream:
                if isinstance(update, bytes):
                    await send({"type": "http.response.body", "body": update, "more_body": True})
                else:
                    await self._begin(update, send)

    async def _begin(self, shared: Mapping[str, str], send: Send) -> None:
        headers = MutableHeaders(raw=self.raw_headers)
        del headers["content-length"]
        headers.update({**UNBUFFERED, **shared})
        self._is_begun = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers.raw})

    def _failed(self, code: str, message: str) -> bytes:
        self._request.state.code = code
        return self._write_error(code, message)
