"""Errors as ``application/problem+json`` (RFC 9457), each with ``detail``, ``code`` and ``request_id``."""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from osamd.errors import (
    AdminOnlyError,
    BlobDigestError,
    BodyTimeoutError,
    CapacityError,
    DeadlineExceededError,
    EmbeddingExpiredError,
    HungError,
    ImageTooLargeError,
    InferenceError,
    InvalidImageError,
    InvalidRequestError,
    ModelError,
    ModelLoadError,
    ModelPullingError,
    ModelUnavailableError,
    OsamdError,
    OutOfMemoryError,
    PullError,
    ShuttingDownError,
    StorageError,
    UnknownModelError,
    UnsupportedMediaError,
    UrlFailedError,
    UrlRefusedError,
    shown,
)
from osamd.server.door import write_problem
from osamd.server.services import services_of

logger = logging.getLogger("osamd")

# It may contain whatever the caller wrote.
LONGEST_DETAIL: Final = 1000
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
# Errors of any guarded route that reads a body.
BODY_ERRORS = (BodyTimeoutError, InvalidRequestError, UnsupportedMediaError)
# Errors of any route that takes an image.
IMAGE_ERRORS = (
    *BODY_ERRORS,
    AdminOnlyError,
    UnknownModelError,
    EmbeddingExpiredError,
    ImageTooLargeError,
    InvalidImageError,
    UrlRefusedError,
    UrlFailedError,
    ShuttingDownError,
    OutOfMemoryError,
    ModelUnavailableError,
    ModelPullingError,
    PullError,
    BlobDigestError,
    StorageError,
    ModelLoadError,
    DeadlineExceededError,
    HungError,
    InferenceError,
)
INTERNAL_CODE = "internal_error"
INTERNAL_DETAIL = "Internal server error. The server's log has the details under this request id."


class Problem(BaseModel):
    """The format of every error."""

    type: str = Field(default="about:blank", description="Always `about:blank`; read `code`.")
    title: str = Field(description="The same as `code`.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong and how to fix it, human-readable.")
    code: str = Field(description="Stable error code, for programs.")
    request_id: str | None = Field(default=None, description="Identifies this request in the server's log.")
    field: str | None = Field(default=None, description="The field of the request at fault.")


def problem_response(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The response for a problem, with the request's id added and long fields truncated."""
    problem.detail = shown(problem.detail, most=LONGEST_DETAIL)
    problem.field = None if problem.field is None else shown(problem.field)
    problem.request_id = getattr(request.state, "request_id", None)
    request.state.code = problem.code
    found = problem.model_dump(exclude_none=True)
    doors = services_of(request).doors if "app" in request.scope else ()
    reply = write_problem(doors, request.scope, found)
    both = {**(headers or {}), **reply.headers}
    return Response(reply.body, status_code=reply.status, media_type=reply.media_type, headers=both)


def answer_error(request: Request, error: Exception) -> Response:
    """Answer an ``OsamdError`` with its status and code."""
    if not isinstance(error, OsamdError):
        raise TypeError("registered for OsamdError only") from error
    if isinstance(error, ModelError):
        exc_info = error if error.status == 500 else None  # noqa: PLR2004
        logger.error("%s: %s", error.code, error, exc_info=exc_info, extra=_named(request))
    headers = {}
    if isinstance(error, CapacityError | ModelError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    problem = Problem(
        title=error.code, status=error.status, detail=error.public_message, code=error.code, field=error.field
    )
    return problem_response(request, problem, headers)


def _named(request: Request) -> dict[str, str | None]:
    """Log fields that link a line to the answer with the same request id."""
    return {"request_id": getattr(request.state, "request_id", None)}


def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer an error of the framework itself: no such path, wrong method, broken multipart."""
    if not isinstance(error, HTTPException):
        raise TypeError("registered for HTTPException only") from error
    code = HTTP_CODES.get(error.status_code, "invalid_request")
    problem = Problem(title=code, status=error.status_code, detail=str(error.detail), code=code)
    return problem_response(request, problem, dict(error.headers or {}))


def answer_unexpected(request: Request, error: Exception) -> Response:
    """Answer a bug: the log gets the traceback, the caller a fixed sentence."""
    logger.error("unexpected error", exc_info=error, extra=_named(request))
    problem = Problem(title=INTERNAL_CODE, status=500, detail=INTERNAL_DETAIL, code=INTERNAL_CODE)
    return problem_response(request, problem)


def add_error_handlers(app: Starlette) -> None:
    """Answer every error in one format."""
    app.add_exception_handler(OsamdError, _on_the_loop(answer_error))
    app.add_exception_handler(HTTPException, _on_the_loop(answer_http_exception))
    app.add_exception_handler(Exception, _on_the_loop(answer_unexpected))


def _on_the_loop(
    answer: Callable[[Request, Exception], Response],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """An error handler as a coroutine: Starlette runs others on threads, which costs more than writing the answer."""

    async def answer_on_the_loop(request: Request, error: Exception) -> Response:
        return answer(request, error)

    return answer_on_the_loop
