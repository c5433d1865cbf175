"""``OneRequestId``: keeps answers from having their request id twice, osamd's and Ray's."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME: Final = b"x-request-id"


class OneRequestId:
    """Leaves the header out where Ray Serve adds the same one.

    Ray gives each request an id, or takes its caller's, and adds it to the answer. osamd uses the same id, unless it is
    the caller's and not harmless; then its own stays.

    Args:
        app: the app behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        known = [value for name, value in scope.get("headers", ()) if name == NAME]

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                message["headers"] = [(name, value) for name, value in headers if name != NAME or value not in known]
            await send(message)

        await self._app(scope, receive, sent)
