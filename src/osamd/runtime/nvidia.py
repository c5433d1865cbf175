"""NVIDIA's driver, devices and library versions, without ONNX Runtime."""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

SUCCESS = 0
NAME_BYTES = 96
# Explanations of common driver error codes.
DRIVER_ERRORS = {
    100: "no device: the container was started without the GPU, or CUDA_VISIBLE_DEVICES hides it",
    101: "invalid device: check CUDA_VISIBLE_DEVICES",
    803: "the kernel driver and its library have different versions: reboot, or remove the cuda-compat library",
    804: "the cuda-compat library does not support this GPU: remove it from LD_LIBRARY_PATH",
    999: "unknown error: often the kernel module nvidia_uvm is not loaded on the host",
}


@dataclass(frozen=True, slots=True)
class Driver:
    """The host's driver.

    Attributes:
        version: such as ``580.65.06``; None without NVML.
        cuda: the newest CUDA version it supports, such as (13, 0).
        devices: names of the GPUs visible to this process.
        problem: why there are no devices, or None.
    """

    version: str | None
    cuda: tuple[int, int]
    devices: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of one GPU, including other processes' use.

    Attributes:
        device: such as ``cuda:0``, numbered as the driver does.
        total: bytes.
        used: bytes in use.
    """

    device: str
    total: int
    used: int


def device_memory() -> list[DeviceMemory]:
    """The memory of every GPU that reports it; empty without a driver."""
    import pynvml

    if not _starts_nvml():
        return []
    found = []
    with contextlib.suppress(pynvml.NVMLError):
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
                found.append(DeviceMemory(f"cuda:{index}", int(memory.total), int(memory.used)))
    return found


@functools.cache
def _starts_nvml() -> bool:
    """Initialise NVML, once per process; False if it is missing or fails."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def find_driver() -> Driver | None:
    """Query the driver; None if there is none.

    This initialises CUDA in the process, which does not survive a fork; meant for ``osamd doctor``.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda = _split(number.value)
    code = library.cuInit(0)
    if code != SUCCESS:
        return Driver(_driver_version(), cuda, (), DRIVER_ERRORS.get(code, f"cuInit returned {code}"))
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    names = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES)
        library.cuDeviceGet(ctypes.byref(device), index)
        library.cuDeviceGetName(name, NAME_BYTES, device)
        names.append(name.value.decode("utf-8", "replace"))
    return Driver(_driver_version(), cuda, tuple(names), None if names else DRIVER_ERRORS[100])


def cuda_runtime_version(major: int) -> str | None:
    """The version of the CUDA runtime of this major version, such as ``13.0``; None if the loader does not find it."""

    def ask(library: ctypes.CDLL) -> str:
        number = ctypes.c_int()
        library.cudaRuntimeGetVersion(ctypes.byref(number))
        return ".".join(map(str, _split(number.value)))

    return _asked(f"libcudart.so.{major}", ask)


def cudnn_version() -> str | None:
    """The version of cuDNN 9, such as ``9.28.1``; None if the loader does not find it."""

    def ask(library: ctypes.CDLL) -> str:
        library.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(library.cudnnGetVersion())
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    return _asked("libcudnn.so.9", ask)


def _driver_version() -> str | None:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return str(pynvml.nvmlSystemGetDriverVersion()) if _starts_nvml() else None
    return None


def _asked(name: str, ask: Callable[[ctypes.CDLL], str]) -> str | None:
    try:
        return ask(ctypes.CDLL(name))
    except OSError:
        return None


def _split(number: int) -> tuple[int, int]:
    """Split CUDA's version number: 13000 is 13.0."""
    return number // 1000, number % 1000 // 10
