import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from osamd.runtime import nvidia
from osamd.runtime.nvidia import Driver, cuda_runtime_version, cudnn_version, find_driver


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


NVML = Library(
    nvmlInit_v2=answers(0), nvmlSystemGetDriverVersion=names(b"580.65.06"), nvmlShutdown=answers(0)
)  # fmt: skip


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
    install(monkeypatch, libcuda=libcuda(version=13020, devices=2), libnvidia_ml=NVML)
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
        (libcuda(init=803), "the driver in the kernel and its library differ"),
        (libcuda(init=42), "cuInit answered 42"),
        (libcuda(devices=0), "started without the GPU"),
    ],
)
def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch, library: Library, part: str) -> None:
    """What the driver answers is told in words where there are any, and NVML may be missing."""
    install(monkeypatch, libcuda=library)
    driver = find_driver()
    assert driver is not None
    assert (None, (13, 0), ()) == (driver.version, driver.cuda, driver.devices)
    assert driver.problem is not None
    assert part in driver.problem


def test_nvml_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A management library that fails leaves the version unknown."""
    install(monkeypatch, libcuda=libcuda(), libnvidia_ml=Library(nvmlInit_v2=answers(9)))
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
