"""Every error osamd raises on purpose, each with its HTTP status and a stable code.

::

    OsamdError                     status, code, exit_code, retry_after_s
    |- RequestError                the caller can fix it; the message is safe to show
    |  |- InvalidRequestError      422 invalid_request    the body or a field has the wrong form
    |  |- InvalidPromptError       422 invalid_prompt     points, labels, boxes or texts do not make sense
    |  |- InvalidImageError        422 invalid_image      not an image, or a broken one
    |  |- UrlRefusedError          422 url_refused        the URL is not allowed
    |  |- UrlFailedError           422 url_failed         the image behind the URL could not be fetched
    |  |- BodyTooLargeError        413 body_too_large     more bytes than the server takes
    |  |- UnsupportedMediaError    415 unsupported_media  the body is compressed, or its type is not supported
    |  |- BodyTimeoutError         408 body_timeout       the body arrived too slowly
    |  |- ImageTooLargeError       413 image_too_large    more pixels than the server takes
    |  |- NotFoundError            404 not_found          no such path
    |  |- MethodNotAllowedError    405 method_not_allowed
    |  |- UnknownModelError        404 unknown_model      no such model in the catalogue
    |  |- PullForbiddenError       403 pull_forbidden     the operator does not let callers pull this model
    |  |- EmbeddingExpiredError    410 embedding_expired  the handle is unknown or expired: send the image again
    |  `- ClientGoneError          499 client_gone        the client disconnected; only in the log
    |- AccessError                 403 access_denied      the key is missing or wrong
    |  |- AdminOnlyError           403 admin_only         needs a key with the role admin
    |  `- ForeignOriginError       403 foreign_origin     cross-site request, and the server has no key
    |- CapacityError               sends Retry-After
    |  |- RateLimitedError         429 rate_limited       a limit of this key
    |  |- WrongKeysError           429 too_many_wrong_keys  wrong keys from one address
    |  |- OverloadedError          503 overloaded         a queue is full
    |  |- ShuttingDownError        503 shutting_down      the server is draining
    |  `- DeadlineExceededError    504 deadline_exceeded  accepted, but not finished in time
    |- ModelError                  logged in full; the caller sees a fixed sentence and the request id
    |  |- ModelUnavailableError    503 model_unavailable  a blob is missing
    |  |- ModelPullingError        503 model_pulling      its blobs are being downloaded; try again later
    |  |- PullError                503 pull_failed        a blob could not be downloaded from any source
    |  |- BlobDigestError          503 blob_digest_mismatch  a blob is not what the catalogue says
    |  |- StorageError             503 storage_failed     the cache cannot be written
    |  |  `- InsufficientStorageError 503 disk_full       not enough disk space for a blob
    |  |- ModelLoadError           503 model_load_failed  a blob is there but does not load
    |  |- HungError                500 hung               a computation hung and was abandoned
    |  |- OutOfMemoryError         503 out_of_memory      not enough memory, even after unloading idle models
    |  `- InferenceError           500 inference_failed   the model failed on this input
    |- ServerConfigurationError    500 not_configured     production without API_KEY
    |- SettingsError               exit code only         a setting is invalid
    `- UnreachableError            client side only       no answer, or one that is not from osamd

Programming errors stay ``TypeError`` and ``RuntimeError``: they are bugs, not answers.
"""

from typing import ClassVar, Final

# Of a name in a message. Callers choose them, and escaped they have six times their bytes.
LONGEST_NAME: Final = 200


class OsamdError(Exception):
    """The root of the tree.

    Attributes:
        status: HTTP status of the answer.
        code: stable identifier, part of the API.
        exit_code: exit code of the command line.
        field: the field of the request at fault, as a path such as ``prompt.points[0]``, or None.
        retry_after_s: seconds after which a retry may succeed, or None.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.field = None if field is None else shown(field)
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s

    @property
    def public_message(self) -> str:
        """The text a caller may read."""
        return str(self)


class RequestError(OsamdError):
    """The caller's mistake; the message says how to fix it."""

    status = 422
    code = "invalid_request"
    exit_code = 2


class InvalidRequestError(RequestError):
    """The body or one of its fields has the wrong form."""


class InvalidPromptError(RequestError):
    """The prompt contradicts itself, lies outside the image, or is not supported by the model."""

    code = "invalid_prompt"


class InvalidImageError(RequestError):
    """The bytes are not an image that can be read."""

    code = "invalid_image"


class UrlRefusedError(RequestError):
    """The server does not fetch this URL: fetching is off, or its host, scheme, port or address is not allowed."""

    code = "url_refused"


class UrlFailedError(RequestError):
    """The image behind the URL could not be fetched, or not in time."""

    code = "url_failed"


class BodyTooLargeError(RequestError):
    """The body is larger than the server allows."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaError(RequestError):
    """The body is compressed, or its type is not supported."""

    status = 415
    code = "unsupported_media"


class BodyTimeoutError(RequestError):
    """The body paused for too long, or took too long altogether."""

    status = 408
    code = "body_timeout"


class ImageTooLargeError(RequestError):
    """The image has more pixels than the server allows; checked before decoding."""

    status = 413
    code = "image_too_large"


class NotFoundError(RequestError):
    """No such path."""

    status = 404
    code = "not_found"


class MethodNotAllowedError(RequestError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class UnknownModelError(RequestError):
    """The catalogue has no such model."""

    status = 404
    code = "unknown_model"


class PullForbiddenError(RequestError):
    """The operator does not let callers pull this model."""

    status = 403
    code = "pull_forbidden"


class EmbeddingExpiredError(RequestError):
    """The handle is unknown, expired, evicted, or belongs to another key."""

    status = 410
    code = "embedding_expired"


class ClientGoneError(RequestError):
    """The client disconnected before its answer was ready; only in the log."""

    status = 499
    code = "client_gone"


class AccessError(OsamdError):
    """The key is missing or wrong."""

    status = 403
    code = "access_denied"
    exit_code = 3


class AdminOnlyError(AccessError):
    """The key is valid, but its role is not admin."""

    code = "admin_only"


class ForeignOriginError(AccessError):
    """A cross-site request, or one by a foreign host name, to a server without an API key."""

    code = "foreign_origin"


class CapacityError(OsamdError):
    """The server is overloaded; a later retry may succeed."""

    status = 503
    code = "overloaded"
    exit_code = 4
    default_retry_after_s = 1.0


class RateLimitedError(CapacityError):
    """This key has reached its rate limit or its limit of concurrent requests."""

    status = 429
    code = "rate_limited"


class WrongKeysError(CapacityError):
    """Too many wrong keys came from this address; valid keys still work."""

    status = 429
    code = "too_many_wrong_keys"


class OverloadedError(CapacityError):
    """A shared limit was reached, or a wait was too long."""


class ShuttingDownError(CapacityError):
    """The server is draining."""

    code = "shutting_down"


class DeadlineExceededError(CapacityError):
    """The request was accepted but not finished in time."""

    status = 504
    code = "deadline_exceeded"


class ModelError(OsamdError):
    """Something is wrong with a model. The full text goes to the log, never to the caller."""

    status = 503
    code = "model_load_failed"
    exit_code = 5

    @property
    def public_message(self) -> str:
        """A fixed sentence: paths and engine messages stay in the log."""
        return f"{type(self).__doc__} The server's log has the details under this request id."


class ModelUnavailableError(ModelError):
    """The model's files are not on this server."""

    code = "model_unavailable"
    default_retry_after_s = 60.0

    @property
    def public_message(self) -> str:
        """The message names the blob by its digest, never by a path."""
        return str(self)


class ModelPullingError(ModelError):
    """The model's files are being downloaded."""

    code = "model_pulling"
    default_retry_after_s = 10.0

    @property
    def public_message(self) -> str:
        """The message gives the progress, never the source."""
        return str(self)


class PullError(ModelError):
    """The model's files could not be downloaded."""

    code = "pull_failed"
    default_retry_after_s = 60.0


class BlobDigestError(ModelError):
    """A file of the model does not match the catalogue's SHA-256."""

    code = "blob_digest_mismatch"


class StorageError(ModelError):
    """The model's files cannot be stored on this server's disk."""

    code = "storage_failed"


class InsufficientStorageError(StorageError):
    """This server's disk has no space for the model's files."""

    code = "disk_full"


class ModelLoadError(ModelError):
    """The model could not be loaded."""


class OutOfMemoryError(ModelError):
    """Out of memory, even after unloading idle models."""

    code = "out_of_memory"
    default_retry_after_s = 10.0


class HungError(ModelError):
    """A computation hung and was abandoned."""

    status = 500
    code = "hung"


class InferenceError(ModelError):
    """The model failed on this input."""

    status = 500
    code = "inference_failed"


class ServerConfigurationError(OsamdError):
    """The server is not configured correctly."""

    code = "not_configured"
    exit_code = 6


class SettingsError(OsamdError):
    """A setting is invalid."""

    code = "invalid_setting"
    exit_code = 6


class UnreachableError(OsamdError):
    """The client got no answer, or one that osamd does not give."""

    code = "unreachable"
    exit_code = 7


def shown(text: str, *, most: int = LONGEST_NAME) -> str:
    """A caller's text, truncated so that it can be repeated in an answer."""
    return text if len(text) <= most else f"{text[:most]}..."


def with_field(message: str, field: str | None) -> str:
    """The message, prefixed with the field at fault unless it starts with it already."""
    return message if field is None or message.startswith(f"{field}:") else f"{field}: {message}"
