"""GPU memory as the driver tells it, with a library that stands in for the driver's."""

import ctypes
from typing import Any

import pytest

from osamd.runtime.device_memory import DeviceMemory, device_memory

GIB = 1 << 30


class Driver:
    """NVML with two GPUs of 80 GiB, the second of which does not answer."""

    def __init__(self, *, starts: bool = True, counts: bool = True) -> None:
        self._starts, self._counts = starts, counts

    def nvmlInit_v2(self) -> int:  # noqa: N802 - the library's own names
        """Start."""
        return 0 if self._starts else 9

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        """Two."""
        count._obj.value = 2
        return 0 if self._counts else 1

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        """The index is the handle."""
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        """The first has 5 GiB in use."""
        if handle.value != 1:
            return 15
        memory._obj.total, memory._obj.free, memory._obj.used = 80 * GIB, 75 * GIB, 5 * GIB
        return 0


def no_driver(name: str) -> Any:
    """What the loader says on a machine without a GPU."""
    raise OSError(f"{name}: cannot open shared object file")


def test_every_gpu_that_answers_is_told() -> None:
    """Bytes it has and bytes in use; one that fails takes nothing from the others."""
    assert [DeviceMemory("cuda:0", 80 * GIB, 5 * GIB)] == device_memory(lambda _: Driver())


@pytest.mark.parametrize(
    "load",
    [no_driver, lambda _: Driver(starts=False), lambda _: Driver(counts=False)],
    ids=["no driver", "does not start", "does not count"],
)
def test_without_a_driver_there_is_nothing_to_tell(load: Any) -> None:
    """A server on a CPU has these metrics without values."""
    assert [] == device_memory(load)
