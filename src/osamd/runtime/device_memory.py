"""How much of each GPU's memory is in use, asked of the driver's own library (NVML). No GPU, no answer."""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

LIBRARY: Final = "libnvidia-ml.so.1"
SUCCESS: Final = 0


class _Memory(ctypes.Structure):
    """``nvmlMemory_t``."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of one GPU, by whomever it is used.

    Attributes:
        device: such as ``cuda:0``, as the driver counts them.
        total: bytes it has.
        used: bytes in use.
    """

    device: str
    total: int
    used: int


def device_memory(load: Callable[[str], Any] = ctypes.CDLL) -> list[DeviceMemory]:
    """The memory of every GPU of this machine; none where there is no driver.

    Args:
        load: opens a shared library.
    """
    library = _opened(load)
    if library is None:
        return []
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != SUCCESS:
        return []
    found = []
    for index in range(count.value):
        handle, memory = ctypes.c_void_p(), _Memory()
        if (
            library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == SUCCESS
            and library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == SUCCESS
        ):
            found.append(DeviceMemory(f"cuda:{index}", memory.total, memory.used))
    return found


@functools.cache
def _opened(load: Callable[[str], Any]) -> Any:
    """The library, initialised once; None where it is not to be had."""
    with contextlib.suppress(OSError):
        library = load(LIBRARY)
        return library if library.nvmlInit_v2() == SUCCESS else None
    return None
