"""Download, unpack, choose and pack: ``python -m training.prepare FOLDER``."""

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.cutouts import cutouts_of
from training.library import Found, write
from training.outlines import pack
from training.photos import photos_of
from training.regions import regions_of
from training.sources import BACKBONE_PACKAGE, BACKBONE_VERSION, SOURCES, backbone_weights, unpack

SEED = 20


def prepare(folder: Path) -> dict[str, object]:
    """Fill a folder with ``library.bin``, ``library.json``, ``manifest.json`` and the copyright files."""
    rng = np.random.default_rng(SEED)
    backbone_weights(folder)
    notices = folder / "attribution"
    notices.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    rows = []
    for source in tqdm(SOURCES, desc="packages"):
        package = unpack(source, folder)
        left_out: Counter[str] = Counter()
        pictures = [*cutouts_of(package, left_out), *photos_of(package, left_out, rng)]
        pictures += list(_outlines(pictures))
        found += pictures
        shutil.copyfile(package.copyright_file, notices / f"{source.package}.txt")
        rows.append(
            {
                "package": source.package,
                "version": package.version,
                "licence": source.licence,
                "taken": dict(Counter(picture.kind for picture in pictures)),
                "left out": dict(left_out),
            }
        )
    write(found, folder)
    backbone = {"package": BACKBONE_PACKAGE, "version": BACKBONE_VERSION, "licence": "Apache-2.0"}
    manifest: dict[str, object] = {"pictures": rows, "backbone": backbone}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _outlines(pictures: Sequence[Found]) -> Iterator[Found]:
    """The regions of each background that has some."""
    for picture in pictures:
        if picture.kind == "background":
            regions = regions_of(picture.pixels)
            if regions:
                yield replace(picture, kind="regions", pixels=pack(regions))


def main() -> None:
    """Prepare a folder."""
    parser = argparse.ArgumentParser(description="Collect what the built-in network is trained on.")
    parser.add_argument("folder", type=Path)
    prepare(parser.parse_args().folder)


if __name__ == "__main__":
    main()
