"""Check this installation: versions, where models would run, and problems."""

import argparse
import platform
import sys
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from osamd import __version__
from osamd.cli.printing import table
from osamd.errors import OsamdError, SettingsError
from osamd.files import folder_problem
from osamd.library.catalog import DEFAULT_MODEL, load_catalog
from osamd.library.store import Store
from osamd.plurals import counted
from osamd.server.guard.auth import TOO_SHORT, is_guessable
from osamd.server.guard.keys import read_keys
from osamd.settings import Device, DoorName, Settings, load_settings, variable_of

if TYPE_CHECKING:
    from osamd.runtime.sessions import Placement

CPU_PACKAGE, GPU_PACKAGE = "onnxruntime", "onnxruntime-gpu"
PACKAGES = (CPU_PACKAGE, GPU_PACKAGE, "numpy", "opencv-python-headless", "pillow", "starlette", "uvicorn")
FAILED = 1
# The oldest driver for each major version of CUDA.
DRIVER_OF_CUDA = {12: "525", 13: "580"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was checked.
        text: what was found.
        is_wrong: whether this keeps osamd from working.
    """

    name: str
    text: str
    is_wrong: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 when something is wrong."""
        return FAILED if any(finding.is_wrong for finding in self.findings) else 0

    def text(self) -> str:
        """One line per finding, problems marked."""
        return table([("!!" if finding.is_wrong else "ok", finding.name, finding.text) for finding in self.findings])


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    report = examine(arguments.device)
    print(report.text())
    return report.exit_code


def examine(device: Device | None = None) -> Report:
    """Check everything; problems are reported, not raised.

    Args:
        device: where models should run; overrides OSAMD_DEVICE.
    """
    findings = [
        Finding("osamd", __version__),
        Finding("python", f"{platform.python_version()} {sys.implementation.name}, {platform.machine()}"),
        *_packages(),
    ]
    try:
        settings = load_settings(device=device)
    except SettingsError as error:
        findings.append(Finding("settings", str(error), is_wrong=True))
        return Report(tuple(findings))
    findings += [*_keys(settings), _doors(settings), _cache(settings.cache), *_catalog(settings), *_placement(settings)]
    return Report(tuple(findings))


def _packages() -> list[Finding]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    findings = [Finding(package, number) for package, number in found.items()]
    if {CPU_PACKAGE, GPU_PACKAGE} <= set(found):
        both = f"both {CPU_PACKAGE} and {GPU_PACKAGE} are installed; the one installed last hides the other"
        remedy = f"pip uninstall --yes {CPU_PACKAGE} {GPU_PACKAGE}, then install one of them"
        findings.append(Finding(CPU_PACKAGE, f"{both}: {remedy}", is_wrong=True))
    return findings


def _keys(settings: Settings) -> list[Finding]:
    """The keys, judged as a server judges them when it starts."""
    files = [_key_file(settings, settings.api_key_file)] if settings.api_key_file is not None else []
    return files if files and settings.api_key is None else [_key(settings), *files]


def _key_file(settings: Settings, path: Path) -> Finding:
    try:
        keys = read_keys(path, may_be_guessable=settings.app_env == "development")
    except SettingsError as error:
        return Finding("API_KEY_FILE", str(error), is_wrong=True)
    return Finding("API_KEY_FILE", f"{path}: {counted(len(keys), 'key')}")


def _key(settings: Settings) -> Finding:
    if settings.api_key is not None:
        if settings.app_env != "development" and is_guessable(settings.api_key.get_secret_value().strip()):
            return Finding("API_KEY", TOO_SHORT, is_wrong=True)
        return Finding("API_KEY", "set")
    if settings.app_env == "development":
        return Finding("API_KEY", "not set; with APP_ENV=development every request is accepted")
    return Finding("API_KEY", "not set: in production every request gets 500")


def _doors(settings: Settings) -> Finding:
    from osamd.server.doors import open_doors

    found = []
    for door in open_doors(settings):
        keyless = ", ".join(settings.keyless_networks) if door.is_keyless else ""
        found.append(f"{door.name} (no key needed from {keyless})" if keyless else door.name)
    shut = [name for name in get_args(DoorName) if name not in settings.doors]
    text = f"open: {', '.join(found) or 'none'}"
    return Finding("doors", f"{text}; closed: {', '.join(shut)} ({variable_of('doors')})" if shut else text)


def _cache(cache: Path) -> Finding:
    problem = folder_problem(cache)
    if problem is not None:
        return Finding("cache", f"{cache}: {problem}; set {variable_of('cache')} to a writable folder", is_wrong=True)
    return Finding("cache", f"{cache} ({'writable' if cache.exists() else 'does not exist yet'})")


def _catalog(settings: Settings) -> list[Finding]:
    catalog = load_catalog(settings.user_catalog)
    models, store = list(catalog), Store(settings.cache)
    here = sum(store.is_present(model) for model in models)
    own = f", including those of {settings.user_catalog}" if settings.user_catalog else ""
    findings = [Finding("catalogue", f"{counted(len(models), 'model')}, {here} of them pulled{own}")]
    return findings + [Finding("catalogue", str(problem), is_wrong=True) for problem in catalog.problems]


def _placement(settings: Settings) -> list[Finding]:
    """Where models run, or why they cannot, checked by loading the built-in model."""
    from osamd.runtime.sessions import available_providers, choose_placement

    findings = [Finding("providers", ", ".join(available_providers()))]
    wants_gpu = settings.device == "cuda"
    try:
        placement = choose_placement(
            device=settings.device, onnx_providers=settings.onnx_providers, threads=settings.threads
        )
    except SettingsError as error:
        findings.append(Finding("device", str(error), is_wrong=True))
        return [*findings, *_gpu()] if wants_gpu else findings
    if wants_gpu and placement.device != "cuda":
        overridden = f"{placement.device}: {variable_of('onnx_providers')} overrides {variable_of('device')}"
        findings.append(Finding("device", overridden, is_wrong=True))
    else:
        findings.append(Finding("device", f"{placement.device}, {placement.threads} threads"))
    on_gpu = placement.device == "cuda"
    if on_gpu:
        # `auto` falls back to the CPU: missing parts are reported, but are not problems.
        findings += [replace(finding, is_wrong=finding.is_wrong and not placement.may_fall_back) for finding in _gpu()]
    return [*findings, *_builtin(settings, placement, on_gpu=on_gpu), *_own_models(settings)]


def _own_models(settings: Settings) -> list[Finding]:
    """Load and run the user's own models that are on disk: a graph may not match its family."""
    from osamd.engine.inference import load_model, run_once

    store, findings = Store(settings.cache), []
    for model in load_catalog(settings.user_catalog):
        if model.origin is None or not store.is_present(model):
            continue
        try:
            adapter = load_model(model, store=store, settings=settings)
            run_once(adapter, model)
            findings.append(Finding(model.name, f"loads and runs, on {adapter.device}"))
        except OsamdError as error:
            findings.append(Finding(model.name, str(error), is_wrong=True))
    return findings


def _gpu() -> list[Finding]:
    """What a GPU needs (package, driver, device, CUDA, cuDNN), and how to install what is missing."""
    from osamd.runtime.nvidia import cuda_runtime_version, cudnn_version, find_driver
    from osamd.runtime.sessions import built_for_cuda, load_cuda_libraries

    load_cuda_libraries()
    built = built_for_cuda()
    if built is None:
        return [
            Finding(
                "CUDA",
                f"this ONNX Runtime is built for the CPU: pip uninstall --yes {CPU_PACKAGE}, then pip install"
                f" '{GPU_PACKAGE}[cuda,cudnn]', or use osamd's GPU image",
                is_wrong=True,
            )
        ]
    findings = [Finding("CUDA", f"ONNX Runtime is built for {_dotted(built)}")]
    driver = find_driver()
    if driver is None:
        text = "no NVIDIA driver found (libcuda.so.1): install it; start containers with --gpus all"
        findings.append(Finding("driver", text, is_wrong=True))
    else:
        version = f"{driver.version or 'of unknown version'}, for CUDA up to {_dotted(driver.cuda)}"
        # Within a major version of CUDA, older drivers work with newer libraries.
        is_old = driver.cuda[0] < built[0]
        remedy = f": too old for CUDA {built[0]}. Install driver {DRIVER_OF_CUDA.get(built[0], 'for it')} or newer, or"
        remedy += " osamd's image for CUDA 12 (--build-arg CUDA=12)"
        findings.append(Finding("driver", version + (remedy if is_old else ""), is_wrong=is_old))
        text = driver.problem or ", ".join(driver.devices)
        findings.append(Finding("GPU", text, is_wrong=driver.problem is not None))
    for name, found, package in (
        ("CUDA runtime", cuda_runtime_version(built[0]), "cuda"),
        ("cuDNN", cudnn_version(), "cudnn"),
    ):
        missing = f"not found: pip install '{GPU_PACKAGE}[{package}]'"
        findings.append(Finding(name, found or missing, is_wrong=found is None))
    return findings


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _builtin(settings: Settings, placement: "Placement", *, on_gpu: bool) -> list[Finding]:
    """Load the built-in model where models would run; on a GPU, prove that the GPU did the work."""
    from osamd.cli.proof import prove
    from osamd.models import build_model

    model = load_catalog().resolve(DEFAULT_MODEL)
    paths = Store(settings.cache).paths(model)
    try:
        adapter = build_model(model, paths, placement)
        findings = [Finding(DEFAULT_MODEL, f"loads, on {adapter.device}")]
        if on_gpu and adapter.device == "cuda":
            proof = prove(paths["encoder"], placement)
            text = "; ".join([*proof.problems, proof.sentence()])
            findings.append(Finding("proof", text, is_wrong=bool(proof.problems)))
    except (OsamdError, OSError) as error:
        return [Finding(DEFAULT_MODEL, str(error), is_wrong=True)]
    return findings
