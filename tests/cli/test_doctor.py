"""What the doctor says about a GPU, for every way in which one can be missing."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from test_proof import ON_CPU, ON_GPU

from osamd import models
from osamd.cli import doctor, proof
from osamd.cli.doctor import Finding, Report, examine
from osamd.cli.proof import Proof
from osamd.runtime import nvidia, sessions
from osamd.runtime.nvidia import Driver
from osamd.runtime.sessions import CPU, CUDA
from osamd.settings import Device

L4 = Driver("580.65.06", (13, 0), ("NVIDIA L4",), None)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything is right."""
    installed = {"onnxruntime-gpu": "1.31.1"}

    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    class Adapter:
        device = "cuda"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(sessions, "built_for_cuda", lambda: (13, 0))
    monkeypatch.setattr(nvidia, "find_driver", lambda: L4)
    monkeypatch.setattr(nvidia, "cuda_runtime_version", lambda major: f"{major}.0")
    monkeypatch.setattr(nvidia, "cudnn_version", lambda: "9.28.1")
    monkeypatch.setattr(models, "build_model", lambda *_: Adapter())
    monkeypatch.setattr(proof, "prove", lambda *_: Proof(ON_GPU, ON_CPU))


def wrong(report: Report) -> dict[str, str]:
    """The findings that are marked."""
    return {finding.name: finding.text for finding in report.findings if finding.is_wrong}


def test_working_gpu_has_no_problems() -> None:
    """Everything that has to fit is named with its version, and the proof is there."""
    report = examine("cuda")
    assert ({}, 0) == (wrong(report), report.exit_code)
    said = {finding.name: finding.text for finding in report.findings}
    assert "ONNX Runtime is built for 13.0" == said["CUDA"]
    assert "580.65.06, for CUDA up to 13.0" == said["driver"]
    assert ("NVIDIA L4", "13.0", "9.28.1") == (said["GPU"], said["CUDA runtime"], said["cuDNN"])
    assert "88 nodes on cuda" in said["proof"]


@pytest.mark.parametrize(
    ("where", "name", "answer", "finding", "part"),
    [
        (sessions, "built_for_cuda", None, "CUDA", "pip uninstall --yes onnxruntime, then pip install"),
        (nvidia, "find_driver", None, "driver", "--gpus all"),
        (
            nvidia,
            "find_driver",
            replace(L4, version="535.216.03", cuda=(12, 2)),
            "driver",
            "Install driver 580 or newer",
        ),
        (nvidia, "find_driver", replace(L4, devices=(), problem="no device"), "GPU", "no device"),
        (nvidia, "cuda_runtime_version", None, "CUDA runtime", "onnxruntime-gpu[cuda]"),
        (nvidia, "cudnn_version", None, "cuDNN", "onnxruntime-gpu[cudnn]"),
        (proof, "prove", Proof(replace(ON_GPU, nodes={CPU: 90}), ON_CPU), "proof", "only 0 of 90 nodes ran on CUDA"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, answer: Any, finding: str, part: str
) -> None:
    """Each part that does not fit fails the report by itself, and says what to install."""
    monkeypatch.setattr(where, name, lambda *_: answer)
    report = examine("cuda")
    assert 1 == report.exit_code
    assert [finding] == list(wrong(report))
    assert part in wrong(report)[finding]


def test_cpu_and_gpu_packages_together_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both install the same files, so which one wins is undefined; reported even without a GPU."""
    monkeypatch.setattr(doctor, "version", lambda _: "1.31.1")
    for device in ("cuda", "cpu"):
        assert "pip uninstall --yes onnxruntime onnxruntime-gpu" in wrong(examine(device))["onnxruntime"]


def test_cpu_package_with_cuda_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed's image: CUDA beside an ONNX Runtime for the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(sessions, "built_for_cuda", lambda: None)
    report = examine("cuda")
    assert {"device", "CUDA"} == set(wrong(report))
    assert 1 == report.exit_code


def test_onnx_providers_that_override_cuda_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that overrides the device is reported, instead of a report about the CPU."""
    monkeypatch.setenv("OSAM_ONNX_PROVIDERS", CPU)
    assert "cpu: OSAM_ONNX_PROVIDERS overrides OSAMD_DEVICE" == wrong(examine("cuda"))["device"]


def test_auto_tolerates_a_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``auto`` a missing GPU is reported, but is not a problem."""
    monkeypatch.setattr(nvidia, "find_driver", lambda: None)
    report = examine("auto")
    assert ({}, 0) == (wrong(report), report.exit_code)
    assert any("--gpus all" in finding.text for finding in report.findings if finding.name == "driver")


def test_missing_temporary_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without a folder to write the proof is not given, and the report says why."""

    def prove(*_: object) -> Proof:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(proof, "prove", prove)
    assert "No usable temporary directory" in wrong(examine("cuda"))["builtin:latest"]


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_flag_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    """``--device`` is what is looked at, whatever the environment says."""
    monkeypatch.setenv("OSAMD_DEVICE", "cuda")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    report = examine(device)
    assert Finding("device", report.findings[-2].text) == report.findings[-2]
    assert report.findings[-2].text.startswith("cpu, ")
    assert {} == wrong(report)


def test_doors_are_told_with_those_that_need_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are open, which are not, and from where one may be used without a key."""
    monkeypatch.setenv("OSAMD_DOORS", "roboflow,qupath")
    said = {finding.name: finding.text for finding in examine("cuda").findings}["doors"]
    assert said.startswith("open: roboflow, qupath (no key needed from 127.0.0.0/8, ::1)")

    monkeypatch.setenv("OSAMD_DOORS", "none")
    said = {finding.name: finding.text for finding in examine("cuda").findings}["doors"]
    assert said.startswith("open: none; closed: ")
    assert said.endswith(" (OSAMD_DOORS)")

    monkeypatch.setenv("OSAMD_DOORS", "napari")
    (wrong_setting,) = wrong(examine("cuda")).values()
    assert wrong_setting.startswith("OSAMD_DOORS: ")


def test_keys_are_judged_as_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of keys is enough; a broken one, and a short key, are what ends a start."""

    def told() -> dict[str, tuple[str, bool]]:
        findings = examine("cpu").findings
        return {each.name: (each.text, each.is_wrong) for each in findings if each.name.startswith("API_KEY")}

    monkeypatch.delenv("APP_ENV", raising=False)
    file = tmp_path / "keys"
    file.write_text("alice user alices-long-secret-81\n")
    file.chmod(0o600)
    monkeypatch.setenv("API_KEY_FILE", str(file))
    assert {"API_KEY_FILE": (f"{file}: 1 key", False)} == told()
    file.write_text("alice emperor alices-long-secret-81\n")
    assert told()["API_KEY_FILE"][1]
    assert "alices-long-secret-81" not in told()["API_KEY_FILE"][0]
    monkeypatch.delenv("API_KEY_FILE")
    monkeypatch.setenv("API_KEY", "short")
    assert told()["API_KEY"][1]
    monkeypatch.delenv("API_KEY")
    assert {"API_KEY": ("not set: in production every request gets 500", False)} == told()
