"""``EverythingStream``: answers everything mode line by line, as masks are found."""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Sequence
from typing import Final, Generic

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from osamd.engine.admit import Admit
from osamd.engine.everything import Begun, Update
from osamd.errors import ClientGoneError, OsamdError
from osamd.image_sources import ImageSource
from osamd.server.accept import NDJSON
from osamd.server.answering import Ask, How, Parse, Write, answered, asked, segment_request, timed
from osamd.server.guard.memory_budget import Holding
from osamd.server.problems import INTERNAL_CODE, INTERNAL_DETAIL
from osamd.server.services import caller_of, holding_of, services_of, timings_of
from osamd.settings import Settings
from osamd.timings import Timings
from osamd.wire.json_pieces import Room
from osamd.wire.replies import license_header, notes_header

logger = logging.getLogger("osamd")

# Takes an update, the ask, the settings, and a callback for the lines' size; yields where other jobs may run.
WriteLines = Callable[[Update, Ask[How], Settings, Room], Generator[None, None, Sequence[bytes]]]
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
            async with asked(self._request, self._parse) as (ask, image, admit):
                if ask.everything is None:
                    other = await answered(self._request, ask, image, admit, self._write)
                else:
                    await self._stream(ask, image, admit, send)
        except ClientGoneError:
            raise
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

    async def _stream(self, ask: Ask[How], image: ImageSource, admit: Admit, send: Send) -> None:
        request = self._request
        services, timings, caller = services_of(request), timings_of(request), caller_of(request)
        holding = holding_of(request)
        if ask.everything is None:
            raise TypeError("expected everything mode")
        wanted = segment_request(ask, image, caller, services.settings)
        updates = services.engine.everything(wanted, ask.everything, timings, are_kept=False, admit=admit)
        async with contextlib.aclosing(updates):
            async for update in updates:
                if isinstance(update, Begun):
                    await self._begin(update, send)
                held = holding.nbytes
                room = functools.partial(_grow, holding, held)
                write = functools.partial(self._write_lines, update, ask, services.settings, room)
                lines = await services.pools.write(
                    functools.partial(_timed, write, timings), timings, owner=caller.name
                )
                await send({"type": "http.response.body", "body": b"".join(lines), "more_body": True})
                holding.shrink(held)

    async def _begin(self, begun: Begun, send: Send) -> None:
        headers = MutableHeaders(raw=self.raw_headers)
        del headers["content-length"]
        headers.update(UNBUFFERED | license_header(begun.license) | notes_header(begun.image))
        headers["X-Osamd-Cache"] = "hit" if begun.cache_hit else "miss"
        headers["X-Osamd-Device"] = begun.device
        self._is_begun = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers.raw})

    def _failed(self, code: str, message: str) -> bytes:
        self._request.state.code = code
        return self._write_error(code, message)


def _grow(holding: Holding, held: int, nbytes: int) -> None:
    holding.grow(held + nbytes)


def _timed(
    write: Callable[[], Generator[None, None, Sequence[bytes]]], timings: Timings
) -> Generator[None, None, Sequence[bytes]]:
    return timed(write(), timings)
