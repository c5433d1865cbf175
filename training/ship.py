"""Put a checkpoint into the package, with its sources: ``python -m training.ship FOLDER``.

Writes ``encoder.onnx`` and ``decoder.onnx``, ``README.md`` that says where all comes from, ``manifest.json`` with
counts, ``attribution/`` with the copyright file or licence of every package, and the graphs' digests into the
catalogue; and the picture of the curves beside ``README.md``.
"""

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

from training.export import export

SOURCE: Final = Path(__file__).resolve().parents[1] / "src" / "osamd"
PACKAGE: Final = SOURCE / "models" / "builtin_net"
CATALOGUE: Final = SOURCE / "library" / "catalog.toml"

README: Final = """# The built-in network

`encoder.onnx` and `decoder.onnx` are osamd's own promptable segmentation network: a frozen EfficientNet-Lite2, a
feature pyramid, and a small U-Net that reads clicks, a box and the previous mask. Weights are stored in half precision
and computed in float32. Inputs and outputs are described in `osamd/models/builtin.py`; how it was trained, in
`training/` of the repository. `python -m training.ship` wrote this file.

## What it was trained on

{steps} steps on scenes composed from pictures of Debian and npm packages, each under the licence that its package
states. `attribution/` holds their copyright files and licences, `manifest.json` what was taken and what was left out.

| package | version | licence | taken |
|---|---|---|---|
{rows}

The backbone's ImageNet weights are those of the package `{backbone}` {version} ({licence}); they were not
trained further. No photo of an evaluation set was used.
"""


def ship(folder: Path) -> None:
    """Export what training left in ``folder``, and say where it comes from."""
    steps = export(folder / "checkpoint.pt", PACKAGE)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    rows = [
        f"| `{row['package']}` | {row['version']} | {row['licence']} | "
        + ", ".join(f"{count} {kind}" for kind, count in row["taken"].items())
        + " |"
        for row in manifest["pictures"]
    ]
    backbone = manifest["backbone"]
    text = README.format(
        steps=f"{steps:,}".replace(",", " "),
        rows="\n".join(rows),
        backbone=backbone["package"],
        version=backbone["version"],
        licence=backbone["licence"],
    )
    (PACKAGE / "README.md").write_text(text)
    shutil.copyfile(folder / "curves.png", Path(__file__).with_name("curves.png"))
    shutil.copyfile(folder / "manifest.json", PACKAGE / "manifest.json")
    # Packages that are no longer learned from leave.
    shutil.rmtree(PACKAGE / "attribution", ignore_errors=True)
    shutil.copytree(folder / "attribution", PACKAGE / "attribution")
    CATALOGUE.write_text(pinned(CATALOGUE.read_text(), PACKAGE))


def pinned(catalogue: str, folder: Path) -> str:
    """The catalogue with the digests of a folder's graphs: embeddings of other weights are known by them."""
    for role in ("encoder", "decoder"):
        digest = hashlib.sha256((folder / f"{role}.onnx").read_bytes()).hexdigest()
        pattern = rf'(url = "package:{role}\.onnx"\nsha256 = )"[0-9a-f]{{64}}"'
        catalogue, count = re.subn(pattern, rf'\g<1>"{digest}"', catalogue)
        if count != 1:
            raise ValueError(f"the catalogue names package:{role}.onnx {count} times")
    return catalogue


def main() -> None:
    """Ship a folder's checkpoint."""
    parser = argparse.ArgumentParser(description="Put the trained network into the package.")
    parser.add_argument("folder", type=Path, help="where training.train left its checkpoint")
    ship(parser.parse_args().folder)


if __name__ == "__main__":
    main()
