"""What NVIDIA's driver and libraries say about themselves, without ONNX Runtime."""

import contextlib
import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

SUCCESS = 0
NAME_BYTES = 96
# What the driver's numbers mean where osamd can say more than the number.
DRIVER_ERRORS = {
    100: "no device: the container was started without the GPU, or CUDA_VISIBLE_DEVICES hides it",
    101: "no such device: look at CUDA_VISIBLE_DEVICES",
    803: "the driver in the kernel and its library differ: reboot, or remove a cuda-compat library",
    804: "a cuda-compat library that this GPU does not take: remove it from LD_LIBRARY_PATH",
    999: "unknown error: often the module nvidia_uvm is not loaded on the host",
}


@dataclass(frozen=True, slots=True)
class Driver:
    """The host's driver.

    Attributes:
        version: such as ``580.65.06``; None where NVML is not there to tell.
        cuda: the newest CUDA it can run, such as (13, 0).
        devices: names of the GPUs it shows to this process.
        problem: why there is none, or None.
    """

    version: str | None
    cuda: tuple[int, int]
    devices: tuple[str, ...]
    problem: str | None


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


def device_memory() -> list[DeviceMemory]:
    """The memory of every GPU of this machine that tells it; none where there is no driver."""
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
    """Start the driver's management library, once a process; False where it is missing or does not start."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def find_driver() -> Driver | None:
    """Ask the driver; None where there is none.

    Asking starts CUDA in this process, which a fork would not survive; meant for ``osamd doctor``.
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
        return Driver(_driver_version(), cuda, (), DRIVER_ERRORS.get(code, f"cuInit answered {code}"))
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
    """The CUDA runtime of this major version, such as ``13.0``; None where the loader does not find it."""

    def ask(library: ctypes.CDLL) -> str:
        number = ctypes.c_int()
        library.cudaRuntimeGetVersion(ctypes.byref(number))
        return ".".join(map(str, _split(number.value)))

    return _asked(f"libcudart.so.{major}", ask)


def cudnn_version() -> str | None:
    """The cuDNN 9, such as ``9.28.1``; None where the loader does not find it."""

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
    """CUDA writes 13.0 as 13000."""
    return number // 1000, number % 1000 // 10
