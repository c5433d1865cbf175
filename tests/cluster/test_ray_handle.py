"""What Ray's own errors mean to callers. Needs Ray, but no cluster."""

import asyncio
from typing import Any

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


def test_calls_are_pickled_plainly() -> None:
    """By names that the pinned Ray knows, and with the image as what a Segmenter is chosen by."""
    from ray.serve._private.handle_options import DynamicHandleOptions
    from ray.serve._private.serialization import RPCSerializer

    from osamd.cluster.ray_handle import RayHandle

    class Handle:
        def options(self, **options: object) -> object:
            self.chosen = DynamicHandleOptions().copy_and_update(**options)
            return self

        def remote(self, *arguments: object) -> object:
            return arguments

    handle = Handle()
    asks: list[Any] = [RayHandle({"builtin:latest": handle}).call, RayHandle({"builtin:latest": handle}).stream]
    for ask in asks:
        assert (1,) == ask("sam2:tiny", "0123abcd", "segment", 1)
        chosen = handle.chosen
        assert ("segment", "0123abcd") == (chosen.method_name, chosen.session_id)
        # Raises if it is unknown.
        assert RPCSerializer(chosen.request_serialization, chosen.response_serialization)
        assert {"pickle"} == {chosen.request_serialization, chosen.response_serialization}


def test_a_ray_that_does_not_start_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that takes too long raises a bare Exception."""
    import ray

    from osamd.cluster.batch_ray import connected
    from osamd.errors import UnreachableError

    def fail(**_: object) -> None:
        raise Exception("timed out during startup")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(UnreachableError, match="Ray did not answer: timed out during startup"),
        connected("ray://127.0.0.1:1", count=1, threads=1, tell=lambda _: None),
    ):
        pass


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
