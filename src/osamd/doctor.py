"""What this installation has, where models would run, and what is wrong."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from osamd import __version__
from osamd.catalog import DEFAULT_MODEL, load_catalog
from osamd.errors import OsamdError, SettingsError
from osamd.settings import Settings, load_settings
from osamd.store import Store

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "opencv-python-headless", "pillow", "fastapi", "uvicorn")
FAILED = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        text: what was found.
        is_wrong: whether it keeps osamd from working.
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
        """A line a finding, problems marked."""
        width = max(len(finding.name) for finding in self.findings)
        return "\n".join(
            f"{'!!' if finding.is_wrong else 'ok'}  {finding.name:<{width}}  {finding.text}"
            for finding in self.findings
        )


def examine() -> Report:
    """Look at everything; never raises for what it finds."""
    findings = [
        Finding("osamd", __version__),
        Finding("python", f"{platform.python_version()} {sys.implementation.name}, {platform.machine()}"),
        *_packages(),
    ]
    try:
        settings = load_settings()
    except SettingsError as error:
        findings.append(Finding("settings", str(error), is_wrong=True))
        return Report(tuple(findings))
    findings += [_key(settings), _cache(settings.cache), *_catalog(settings), *_placement(settings), _builtin(settings)]
    return Report(tuple(findings))


def _packages() -> list[Finding]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    findings = [Finding(package, number) for package, number in found.items()]
    if {"onnxruntime", "onnxruntime-gpu"} <= set(found):
        findings.append(
            Finding("onnxruntime", "both onnxruntime and onnxruntime-gpu are installed: remove one", is_wrong=True)
        )
    return findings


def _key(settings: Settings) -> Finding:
    if settings.api_key is not None:
        return Finding("API_KEY", "set")
    if settings.app_env == "development":
        return Finding("API_KEY", "not set; APP_ENV=development lets every request in")
    return Finding("API_KEY", "not set: a production server answers every request with 500")


def _cache(cache: Path) -> Finding:
    if not cache.exists():
        return Finding("cache", f"{cache} (not there yet)")
    is_writable = os.access(cache, os.W_OK)
    return Finding("cache", f"{cache} ({'writable' if is_writable else 'NOT writable'})", is_wrong=not is_writable)


def _catalog(settings: Settings) -> list[Finding]:
    catalog = load_catalog(settings.user_catalog)
    models, store = list(catalog), Store(settings.cache)
    here = sum(store.is_present(model) for model in models)
    own = f", {settings.user_catalog} among it" if settings.user_catalog else ""
    findings = [Finding("catalogue", f"{len(models)} models, {here} of them here{own}")]
    return findings + [Finding("catalogue", str(problem), is_wrong=True) for problem in catalog.problems]


def _placement(settings: Settings) -> list[Finding]:
    from osamd.sessions import available_providers, choose_placement  # noqa: PLC0415 - loads ONNX Runtime

    findings = [Finding("providers", ", ".join(available_providers()))]
    try:
        placement = choose_placement(
            device=settings.device, onnx_providers=settings.onnx_providers, threads=settings.threads
        )
    except SettingsError as error:
        return [*findings, Finding("device", str(error), is_wrong=True)]
    return [*findings, Finding("device", f"{placement.device}, {placement.threads} threads")]


def _builtin(settings: Settings) -> Finding:
    """Load the built-in model where models would run: the shortest proof that inference works here."""
    from osamd.models import build_model  # noqa: PLC0415 - loads ONNX Runtime
    from osamd.sessions import choose_placement  # noqa: PLC0415

    try:
        model = load_catalog().resolve(DEFAULT_MODEL)
        placement = choose_placement(
            device=settings.device, onnx_providers=settings.onnx_providers, threads=settings.threads
        )
        adapter = build_model(model, Store(settings.cache).paths(model), placement)
    except OsamdError as error:
        return Finding(DEFAULT_MODEL, str(error), is_wrong=True)
    return Finding(DEFAULT_MODEL, f"loads, on {adapter.device}")
