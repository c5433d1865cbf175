"""The files an image is made of, as far as no container is needed: ``make image-test`` runs the rest."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.main import main as uvicorns_command

from osamd.server.app import create_app
from osamd.server.process import serve
from osamd.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
GPU_FILES = ("gpu-cuda13.txt", "gpu-cuda12.txt")


def pins(name: str) -> dict[str, set[str]]:
    """The packages of a requirements file, each with its versions; every line of it must be a pin with hashes."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    found: dict[str, set[str]] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        pinned = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ;[^-]+?)?((\s+--hash=sha256:[0-9a-f]{64})+)\s*", entry)
        assert pinned is not None, entry
        found.setdefault(pinned[1], set()).add(pinned[2])
    return found


def is_of_gpu(package: str) -> bool:
    """Whether only the GPU images have it."""
    is_of_cuda = package.startswith("nvidia-") and package != "nvidia-ml-py"
    return is_of_cuda or package == "onnxruntime-gpu"


@pytest.mark.parametrize("name", GPU_FILES)
def test_gpu_image_has_the_gpu_package_alone(name: str) -> None:
    """The seed's image installed the CPU's ONNX Runtime beside CUDA and would have billed a GPU for nothing."""
    packages = pins(name)
    assert "onnxruntime-gpu" in packages
    assert "onnxruntime" not in packages
    assert {f"nvidia-cudnn-cu{name.removeprefix('gpu-cuda').removesuffix('.txt')}"} <= set(packages)


@pytest.mark.parametrize("name", GPU_FILES)
def test_images_differ_in_nothing_else(name: str) -> None:
    """The GPU images have the CPU image's versions of everything but ONNX Runtime, and these are the tested ones."""
    cpu, tested = pins("cpu.txt"), pins("runtime.txt")
    gpu = {package: versions for package, versions in pins(name).items() if not is_of_gpu(package)}
    assert {package: versions for package, versions in cpu.items() if package != "onnxruntime"} == gpu
    assert cpu == {package: versions for package, versions in tested.items() if package in cpu}


@pytest.mark.parametrize(("name", "major"), [("gpu-cuda13.txt", "13"), ("gpu-cuda12.txt", "12")])
def test_cuda_libraries_are_of_one_cuda(name: str, major: str) -> None:
    """CUDA's runtime, compiler and cuBLAS are of the CUDA that this ONNX Runtime is built for."""
    suffix = "-cu12" if major == "12" else ""
    packages = pins(name)
    for part in ("cuda-runtime", "cuda-nvrtc", "cublas"):
        (version,) = packages[f"nvidia-{part}{suffix}"]
        assert major == version.split(".")[0]


def test_every_package_of_the_project_is_in_the_image() -> None:
    """A new dependency reaches the images' lists too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {match[0].lower() for line in project["dependencies"] if (match := re.match(r"[A-Za-z0-9-]+", line))}
    assert names <= set(pins("cpu.txt"))


def test_no_file_enters_the_build_unless_named() -> None:
    """.dockerignore keeps everything out but what the Dockerfile copies, so no secret can reach a layer."""
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert "*" == lines[0]
    assert {line for line in lines if line.startswith("!")} == {
        *("!src", "!requirements/*.txt", "!deploy/image", "!pyproject.toml", "!README.md", "!LICENSE", "!main.py"),
        "!scripts/swagger_ui.py",
    }
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    sources = {
        source
        for copied in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in copied.split()[:-1]
        if not source.startswith("--")
    }
    for source in sources:
        assert list(ROOT.glob(source.replace("${CUDA}", "13"))), source


def test_image_command_matches_the_seed_document() -> None:
    """The last stage is the CPU's; the command is the seed's, in exec form, after our entry point."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert "cpu" == re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)[-1]
    (command,) = re.findall(r"^CMD (.+)$", dockerfile, re.MULTILINE)
    assert "/venv/bin/uvicorn main:app --host 0.0.0.0 --port 11368" == " ".join(json.loads(command))
    gpu = dockerfile[dockerfile.index("\nFROM base AS gpu\n") : dockerfile.index("\nFROM base AS cpu\n")]
    assert "    OSAMD_DEVICE=cuda\n" in gpu


class _NotStartedError(Exception):
    """Raised instead of starting a server."""


def test_uvicorn_options_match_osamd_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's variables give uvicorn's command the options of ``osamd serve``, limits on slow clients too."""
    wanted: dict[str, Any] = {}

    def config(_: object, **options: Any) -> None:
        wanted.update(options)
        raise _NotStartedError

    monkeypatch.setattr(uvicorn, "Config", config)
    with pytest.raises(_NotStartedError):
        serve(create_app(load_settings(app_env="development")), load_settings())
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    for name, value in re.findall(r"\b(UVICORN_[A-Z_]+)=(\S+)", dockerfile):
        monkeypatch.setenv(name, value)
    told = uvicorns_command.make_context("uvicorn", ["main:app"], auto_envvar_prefix="UVICORN").params
    # The command names host and port; the log is configured by main.py, after uvicorn has been.
    names = set(wanted) - {"host", "port", "log_config"}
    protocol = wanted["http"]
    assert {name: wanted[name] for name in names} | {"http": f"{protocol.__module__}:{protocol.__name__}"} == {
        name: told[name] for name in names
    }
