"""Download, unpack, choose and pack: ``python -m training.prepare FOLDER``."""

import argparse
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from training import coco
from training.cutouts import cutouts_of
from training.library import Found, write
from training.models import models_of
from training.outlines import pack
from training.photos import photos_of
from training.regions import regions_of
from training.sources import (
    BACKBONE_PACKAGE,
    BACKBONE_VERSION,
    SOURCES,
    NpmSource,
    backbone_weights,
    check_programs,
    unpack,
)

SEED: Final = 20
COMMON_LICENCES: Final = Path("/usr/share/common-licenses")


def prepare(folder: Path) -> None:
    """Fill a folder with the library, its manifest, and the copyright files and licences of all that is in it."""
    check_programs()
    checkpoint = backbone_weights(folder)
    coco.download(folder)
    notices = folder / "attribution"
    notices.mkdir(parents=True, exist_ok=True)
    for licence in checkpoint.parents[2].glob("*.dist-info/LICENSE"):
        shutil.copyfile(licence, notices / f"{BACKBONE_PACKAGE}.txt")
    rows: list[dict[str, object]] = []
    write(_pictures(folder, notices, rows), folder)
    backbone = {"package": BACKBONE_PACKAGE, "version": BACKBONE_VERSION, "licence": "Apache-2.0"}
    manifest = {"pictures": rows, "backbone": backbone}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _pictures(folder: Path, notices: Path, rows: list[dict[str, object]]) -> Iterator[Found]:
    """All pictures, package by package, then COCO's; a row of the manifest for each, and its copyright file."""
    rng = np.random.default_rng(SEED)
    for source in tqdm(SOURCES, desc="packages"):
        package = unpack(source, folder)
        left_out: Counter[str] = Counter()
        pictures = [*cutouts_of(package, left_out), *photos_of(package, left_out, rng), *models_of(package, left_out)]
        pictures += list(_outlines(pictures))
        copy_notice(package.copyright_file, notices / f"{source.file_name}.txt")
        rows.append(
            {
                "package": source.package,
                "version": package.version,
                "licence": source.licence,
                "from": "npm" if isinstance(source, NpmSource) else "Debian 12",
                "taken": dict(Counter(picture.kind for picture in pictures)),
                "left out": dict(left_out),
            }
        )
        yield from pictures
    photos, row = coco.pictures(folder, notices)
    rows.append(row)
    yield from photos


def copy_notice(copyright_file: Path, target: Path) -> None:
    """A copyright file, and beside it the common licences that it only names by their place in Debian."""
    text = copyright_file.read_text(errors="replace")
    target.write_text(text)
    for name in set(re.findall(r"/usr/share/common-licenses/([A-Za-z0-9]+-[0-9.]*[0-9])", text)):
        shutil.copyfile(COMMON_LICENCES / name, target.parent / f"{name}.txt")


def _outlines(pictures: Sequence[Found]) -> Iterator[Found]:
    """The regions of each background that has some."""
    for picture in pictures:
        if picture.kind == "background":
            regions = regions_of(picture.pixels)
            if regions:
                yield replace(picture, kind="regions", pixels=pack(regions))


def main() -> None:
    """Prepare a folder."""
    parser = argparse.ArgumentParser(description="Collect the training data of the built-in network.")
    parser.add_argument("folder", type=Path)
    prepare(parser.parse_args().folder)


if __name__ == "__main__":
    main()
