"""``RayHandle``: reaches Segmenters through Ray Serve's handles."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import Any, Final

from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from osamd.cluster.configuration import APPLICATION, deployment_of
from osamd.cluster.handle import Call, Stream, busy, lost
from osamd.errors import OsamdError, OverloadedError

ANSWER_S: Final = 5.0
UNAVAILABLE_RETRY_S: Final = 10.0


class RayHandle:
    """See ``Handle``. Models without Segmenters of their own are answered by those of the first model.

    Args:
        handles: Ray's handles by model.
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = dict(handles)
        self._first = next(iter(self._handles.values()))
        self._missing: tuple[str, ...] = ()

    def serves(self, model: str) -> bool:
        """Every Segmenter can load every model."""
        del model
        return True

    def call(self, model: str, key: str, method: str, *args: Any) -> Call:
        """See ``Handle.call``."""
        response: Call = self._of(model).options(method_name=method, session_id=key).remote(*args)
        return response

    def stream(self, model: str, key: str, method: str, *args: Any) -> Stream:
        """See ``Handle.stream``."""
        response: Stream = self._of(model).options(method_name=method, session_id=key, stream=True).remote(*args)
        return response

    async def everywhere(self, method: str, *args: Any) -> Mapping[str, Any]:
        """See ``Handle.everywhere``."""
        answers = await asyncio.gather(*(self._all(handle, method, args) for handle in self._handles.values()))
        absent = [model for model, found in zip(self._handles, answers, strict=True) if not found]
        await self._find_missing(absent)
        return {label: result for found in answers for label, result in found}

    def missing(self) -> Collection[str]:
        """See ``Handle.missing``; as of the last call of ``everywhere``."""
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

    async def _all(self, handle: Any, method: str, args: tuple[Any, ...]) -> list[tuple[str, Any]]:
        try:
            # Waits for the handle to learn of its replicas; there may be none.
            async with asyncio.timeout(ANSWER_S):
                response = handle.broadcast("labelled", method, *args)
                answers = await response.results_async(timeout_s=ANSWER_S, return_exceptions=True)
        except (TimeoutError, DeploymentUnavailableError):
            return []
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _find_missing(self, absent: list[str]) -> None:
        """Of the models without a Segmenter, those that are not meant to be at zero."""
        if not absent:
            self._missing = ()
            return
        # Without a controller, what was known before still holds.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(ANSWER_S):
                deployments = (await asyncio.to_thread(serve.status)).applications[APPLICATION].deployments
            self._missing = tuple(model for model in absent if deployments[deployment_of(model)].status != "HEALTHY")
