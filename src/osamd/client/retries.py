"""Which failures are retried, and when."""

import logging
import time
from typing import Final

import httpx2

from osamd.client.replies import error_of
from osamd.errors import DeadlineExceededError, OsamdError, UnreachableError, WrongKeysError
from osamd.proxies import EnvironmentProxy

logger = logging.getLogger("osamd.client")

FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 5.0
RATE_LIMITED: Final = 429
# Seconds after which it is logged that a call waits.
QUIET_S: Final = 10.0
UNAVAILABLE: Final = 503
GONE: Final = 410
# Statuses from hosts and proxies while a machine is starting.
GATEWAY_STATUSES: Final = frozenset({500, 502, 503, 504})
# 503 codes that do not go away within a minute.
PERMANENT_CODES: Final = frozenset(
    {"model_unavailable", "model_load_failed", "blob_digest_mismatch", "storage_failed", "disk_full"}
)
NOT_CONNECTED: Final = (httpx2.ConnectError, httpx2.ConnectTimeout)
# Nothing was sent, and a retry would not change that.
PERMANENT_FAILURES: Final = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.DecodingError)


class Attempts:
    """The attempts at one call.

    Args:
        url: of the server, for messages.
        proxy: between here and there, or None; for messages.
        patience_s: seconds from now during which another attempt may start.
    """

    def __init__(self, url: str, proxy: EnvironmentProxy | None, patience_s: float) -> None:
        self._url = url
        self._proxy = proxy
        self._since = time.monotonic()
        self._until = self._since + patience_s
        self._is_told = False
        # Whether an earlier attempt may have succeeded, and only its answer was lost.
        self._may_be_done = False
        self._pause_s = FIRST_PAUSE_S

    def settle(
        self, outcome: httpx2.Response | httpx2.RequestError, *, deletes: bool = False
    ) -> httpx2.Response | float:
        """The answer if it succeeded, or seconds to wait before the next attempt.

        Args:
            outcome: of an attempt.
            deletes: whether it is a deletion, which has succeeded if the second attempt finds nothing to delete.

        Raises:
            OsamdError: another attempt is pointless, or ``patience_s`` is over.
        """
        if isinstance(outcome, httpx2.Response):
            if outcome.is_success or (deletes and self._may_be_done and outcome.status_code == GONE):
                return outcome
            problem, status = error_of(outcome), outcome.status_code
            may_retry = is_temporary(problem, status)
        else:
            problem, status = self._unreachable(outcome), None
            may_retry = isinstance(problem, UnreachableError) and not isinstance(outcome, PERMANENT_FAILURES)
        wait_s = problem.retry_after_s or 0.0
        # A rate limit lasts as long as it says; a machine may be up earlier.
        pause_s = max(self._pause_s, wait_s if status == RATE_LIMITED else min(wait_s, MAX_PAUSE_S))
        now = time.monotonic()
        if not may_retry or now + pause_s > self._until:
            # The cause tells a server that is not there from one that gives such an answer.
            raise problem from (outcome if isinstance(outcome, httpx2.RequestError) else None)
        if now - self._since >= QUIET_S and not self._is_told:
            self._is_told = True
            logger.warning("%s; trying again for up to %.0f s", problem, self._until - now)
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2)
        self._may_be_done |= isinstance(problem, UnreachableError) and not isinstance(outcome, NOT_CONNECTED)
        return pause_s

    def _unreachable(self, failure: httpx2.RequestError) -> OsamdError:
        via = "" if self._proxy is None else f" through {self._proxy}"
        if isinstance(failure, httpx2.ReadTimeout):
            return DeadlineExceededError(f"no answer from {self._url}{via} in time")
        return UnreachableError(f"cannot reach {self._url}{via}: {str(failure) or type(failure).__name__}")


def is_temporary(problem: OsamdError, status: int) -> bool:
    """Whether a failed request may soon succeed."""
    if status == RATE_LIMITED:
        # This code is only sent to clients with a wrong key.
        return problem.retry_after_s is not None and not isinstance(problem, WrongKeysError)
    if isinstance(problem, UnreachableError):
        return status in GATEWAY_STATUSES
    return status == UNAVAILABLE and problem.code not in PERMANENT_CODES
