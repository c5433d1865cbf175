"""``make release-check``: build sdist and wheel into dist/, install the wheel in a clean environment, segment a photo.

The wheel is built from the sdist, so that neither lacks a file. The photo is segmented without a network
if this machine allows that.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from osamd import __version__

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PHOTO = ROOT / "examples" / "cat.jpg"


def build(work: Path) -> Path:
    """Build both into dist/; returns the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    hatch = [sys.executable, "-m", "hatchling", "build", "-d", str(DIST), "-t"]
    subprocess.run([*hatch, "sdist"], cwd=ROOT, check=True)
    (sdist,) = DIST.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    subprocess.run([*hatch, "wheel"], cwd=work / sdist.name.removesuffix(".tar.gz"), check=True)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Install the pinned packages and the wheel into an environment of their own; returns the command."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--require-hashes", "-r", str(ROOT / "requirements" / "cpu.txt")], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    subprocess.run([*pip, "check"], check=True)
    return environment / "bin" / "osamd"


def segment(osamd: Path, folder: Path) -> None:
    """Segment the photo in an empty folder with an empty home; raises when that gives no mask."""
    offline = ["unshare", "--net"] if os.geteuid() == 0 and shutil.which("unshare") else []
    mask = folder / "mask.png"
    command = [*offline, str(osamd), "run", "--image", str(PHOTO), "--point", "225,150", "-o", str(mask)]
    subprocess.run(command, cwd=folder, env={"HOME": str(folder), "PATH": os.environ["PATH"]}, check=True)
    if not mask.read_bytes().startswith(b"\x89PNG"):
        raise SystemExit("release-check: no PNG was written")
    print(f"release-check: a mask of {mask.stat().st_size} bytes{' without a network' if offline else ''}")


def main() -> int:
    """Build, install, segment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", default="", help="the tag that is released, v and the version")
    tag = parser.parse_args().tag
    if tag and tag != f"v{__version__}":
        print(f"release-check: the tag {tag} is not v{__version__}", file=sys.stderr)
        return 1
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if tag and f"## [{__version__}]" not in changelog:
        print(f"release-check: CHANGELOG.md has no section {__version__}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        osamd = install(build(work), work / "environment")
        (work / "empty").mkdir()
        segment(osamd, work / "empty")
    return 0


if __name__ == "__main__":
    sys.exit(main())
