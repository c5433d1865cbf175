"""What Ray's own errors mean to callers. Needs Ray, but no cluster."""

import asyncio

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]


def test_an_error_of_grpc_is_a_lost_segmenter() -> None:
    """Another attempt may succeed; it is not a bug."""
    from grpc import StatusCode
    from grpc.aio import AioRpcError, Metadata

    from osamd.cluster.ray_handle import RayHandle

    handle = RayHandle({"builtin:latest": None})
    for code in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.CANCELLED, StatusCode.INTERNAL):
        found = handle.failure(AioRpcError(code, Metadata(), Metadata()))
        assert found is not None
        assert (503, True) == (found.status, found.retry_after_s is not None)
    assert handle.failure(KeyError()) is None


def test_answers_of_a_broadcast_are_collected_one_by_one() -> None:
    """As the pinned Ray gives them, of which one part has no public name."""
    from ray.serve.handle import DeploymentBroadcastResponse

    from osamd.cluster.gathering import Gathered
    from osamd.cluster.ray_handle import RayHandle

    class Result:
        def __init__(self, error: Exception | None = None) -> None:
            self._error = error

        async def get_async(self) -> tuple[str, int]:
            if self._error:
                raise self._error
            return "one", 1

    async def replicas() -> list[Result]:
        return [Result(), Result(KeyError())]

    class Handle:
        def broadcast(self, *_: object) -> object:
            return DeploymentBroadcastResponse(replicas(), None)

    found = asyncio.run(RayHandle({"builtin:latest": Handle()}).everywhere("part"))
    assert Gathered({"one": 1}, 1) == found
