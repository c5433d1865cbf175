"""What Ray's own errors mean to callers. Needs Ray, but no cluster."""

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
