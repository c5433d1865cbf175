import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from osamd.runtime import nvidia
from osamd.runtime.nvidia import DeviceMemory, Driver, cuda_runtime_version, cudnn_version, device_memory, find_driver

GIB = 1 << 30


class Library:
    """A library whose functions are Python's."""

    def __init__(self, **functions: Callable[..., int]) -> None:
        self.__dict__.update(functions)


def writes(value: int) -> Callable[..., int]:
    """A function that writes a number where its first argument points."""

    def function(pointer: Any, *_: Any) -> int:
        pointer._obj.value = value
        return 0

    return function


def names(text: bytes) -> Callable[..., int]:
    """A function that writes a text into its first argument."""

    def function(buffer: Any, *_: Any) -> int:
        buffer.value = text
        return 0

    return function


def answers(code: int) -> Callable[..., int]:
    """A function that only answers."""
    return lambda *_: code


def libcuda(*, version: int = 13000, init: int = 0, devices: int = 1) -> Library:
    """NVIDIA's driver."""
    return Library(
        cuDriverGetVersion=writes(version),
        cuInit=answers(init),
        cuDeviceGetCount=writes(devices),
        cuDeviceGet=writes(0),
        cuDeviceGetName=names(b"NVIDIA L4"),
    )


class Nvml:
    """The driver's management library with two GPUs of 80 GiB, of which the second does not report its memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failing: str) -> None:
        for name in (
            "Init",
            "SystemGetDriverVersion",
            "DeviceGetCount",
            "DeviceGetHandleByIndex",
            "DeviceGetMemoryInfo",
        ):
            monkeypatch.setattr(pynvml, f"nvml{name}", self._fail if name in failing else getattr(self, name))
        nvidia._starts_nvml.cache_clear()

    @staticmethod
    def _fail(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    @staticmethod
    def Init() -> None:  # noqa: N802 - the library's own names
        """Starts."""

    @staticmethod
    def SystemGetDriverVersion() -> str:  # noqa: N802
        """As on a host of today."""
        return "580.65.06"

    @staticmethod
    def DeviceGetCount() -> int:  # noqa: N802
        """Two."""
        return 2

    @staticmethod
    def DeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
        """The index is the handle."""
        return index

    @staticmethod
    def DeviceGetMemoryInfo(handle: int) -> SimpleNamespace:  # noqa: N802
        """The first has 5 GiB in use."""
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=80 * GIB, used=5 * GIB)


@pytest.fixture(autouse=True)
def _nvml_anew() -> Iterator[None]:
    yield
    nvidia._starts_nvml.cache_clear()


def test_memory_of_every_gpu_that_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes it has and bytes in use; one that fails takes nothing from the others."""
    Nvml(monkeypatch)
    assert [DeviceMemory("cuda:0", 80 * GIB, 5 * GIB)] == device_memory()


@pytest.mark.parametrize("failing", ["Init", "DeviceGetCount"])
def test_no_driver_has_no_memory(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """A server on a CPU has these metrics without values."""
    Nvml(monkeypatch, failing)
    assert [] == device_memory()


def install(monkeypatch: pytest.MonkeyPatch, **libraries: Library) -> None:
    """Have the loader find these libraries alone; a name's first underscore stands for its dots."""

    def load(name: str) -> Library:
        stem = name.partition(".so")[0].replace("-", "_")
        if stem not in libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return libraries[stem]

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_a_driver_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version, the newest CUDA it runs, and the names of the GPUs."""
    Nvml(monkeypatch)
    install(monkeypatch, libcuda=libcuda(version=13020, devices=2))
    assert Driver("580.65.06", (13, 2), ("NVIDIA L4", "NVIDIA L4"), None) == find_driver()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the driver's library there is no driver."""
    install(monkeypatch)
    assert find_driver() is None
    assert (None, None) == (cuda_runtime_version(13), cudnn_version())


@pytest.mark.parametrize(
    ("library", "part"),
    [
        (libcuda(init=100), "started without the GPU"),
        (libcuda(init=803), "the kernel driver and its library have different versions"),
        (libcuda(init=42), "cuInit returned 42"),
        (libcuda(devices=0), "started without the GPU"),
    ],
)
def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch, library: Library, part: str) -> None:
    """Driver errors are explained where possible, and NVML may be missing."""
    Nvml(monkeypatch, "Init")
    install(monkeypatch, libcuda=library)
    driver = find_driver()
    assert driver is not None
    assert (None, (13, 0), ()) == (driver.version, driver.cuda, driver.devices)
    assert driver.problem is not None
    assert part in driver.problem


def test_nvml_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A management library that fails leaves the version unknown."""
    Nvml(monkeypatch, "Init")
    install(monkeypatch, libcuda=libcuda())
    driver = find_driver()
    assert driver is not None
    assert (None, ("NVIDIA L4",)) == (driver.version, driver.devices)


def test_versions_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's runtime and cuDNN write their versions in their own ways."""
    cudnn = Library()
    cudnn.__dict__["cudnnGetVersion"] = type("Function", (), {"__call__": lambda _: 92801})()
    install(monkeypatch, libcudart=Library(cudaRuntimeGetVersion=writes(12090)), libcudnn=cudnn)
    assert ("12.9", "9.28.1") == (cuda_runtime_version(12), cudnn_version())
    assert 96 == nvidia.NAME_BYTES
