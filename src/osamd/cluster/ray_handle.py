"""``RayHandle``: reaches Segmenters through Ray Serve's handles."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from osamd.cluster.configuration import APPLICATION, deployment_of
from osamd.cluster.gathering import Gathered, gathered, together
from osamd.cluster.handle import Call, Stream, busy, lost
from osamd.cluster.whole_status import is_missing
from osamd.errors import OsamdError, OverloadedError

ANSWER_S: Final = 5.0
STATUS_S: Final = 2.0
UNAVAILABLE_RETRY_S: Final = 10.0
# Half the time of Ray's cloudpickle, which would also take functions by value.
PLAIN_PICKLE: Final = {"request_serialization": "pickle", "response_serialization": "pickle"}


class RayHandle:
    """See ``Handle``. Models without Segmenters of their own are answered by those of the first model.

    Args:
        handles: Ray's handles by model.
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = dict(handles)
        self._first = next(iter(self._handles.values()))
        self._missing: tuple[str, ...] = ()
        # One: it may hang while Ray's controller is away, and the others have requests to answer.
        self._asking = ThreadPoolExecutor(1, "serve-status")

    def call(self, model: str, key: str, method: str, *args: Any) -> Call:
        """See ``Handle.call``."""
        response: Call = self._of(model).options(method_name=method, session_id=key, **PLAIN_PICKLE).remote(*args)
        return response

    def stream(self, model: str, key: str, method: str, *args: Any) -> Stream:
        """See ``Handle.stream``."""
        options = self._of(model).options(method_name=method, session_id=key, stream=True, **PLAIN_PICKLE)
        response: Stream = options.remote(*args)
        return response

    async def everywhere(self, method: str, *args: Any, model: str | None = None) -> Gathered:
        """See ``Handle.everywhere``."""
        handles = self._handles.values() if model is None else [self._of(model)]
        return together(await asyncio.gather(*(self._all(handle, method, args) for handle in handles)))

    async def missing(self) -> Collection[str]:
        """See ``Handle.missing``."""
        # Without a controller, what was known before still holds.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STATUS_S):
                status = await asyncio.get_running_loop().run_in_executor(self._asking, serve.status)
            deployments = status.applications[APPLICATION].deployments
            self._missing = tuple(model for model in self._handles if _is_missing(deployments[deployment_of(model)]))
        return self._missing

    def failure(self, error: Exception) -> OsamdError | None:
        """See ``Handle.failure``."""
        if isinstance(error, BackPressureError):
            return busy(error.retry_after_s)
        if isinstance(error, (RayActorError, AioRpcError)):
            return lost()
        if isinstance(error, DeploymentUnavailableError):
            return OverloadedError("no Segmenter of this model can be started", retry_after_s=UNAVAILABLE_RETRY_S)
        return None

    def _of(self, model: str) -> Any:
        return self._handles.get(model, self._first)

    async def _all(self, handle: Any, method: str, args: tuple[Any, ...]) -> Gathered:
        try:
            # Waits for the handle to learn of its replicas; there may be none.
            async with asyncio.timeout(ANSWER_S):
                # Not ``results_async``: if one is late, it has none.
                calls = await handle.broadcast("labelled", method, *args)._fetch_replica_results_async()  # noqa: SLF001
        except (TimeoutError, DeploymentUnavailableError):
            return Gathered({})
        return await gathered((call.get_async() for call in calls), within_s=ANSWER_S)


def _is_missing(deployment: Any) -> bool:
    return is_missing(deployment.status, deployment.replica_states.get("RUNNING", 0))
