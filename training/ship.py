"""Put the tuned weights into the package, with their sources: ``python -m training.ship FOLDER --first-steps N``.

Writes the exact graphs into ``training/exact``; the quantized ones into the package, with ``README.md`` that says where
all comes from, ``manifest.json`` with counts, and ``attribution/`` with the copyright file or licence of every source;
their digests into the catalogue; and the curves of tuning beside ``training/README.md``.
"""

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

from training.export import export
from training.quantize import quantize

EXACT: Final = Path(__file__).with_name("exact")
SOURCE: Final = Path(__file__).resolve().parents[1] / "src" / "osamd"
PACKAGE: Final = SOURCE / "models" / "builtin_net"
CATALOGUE: Final = SOURCE / "library" / "catalog.toml"

# Beside exact graphs: the steps of the first stage and of each round of tuning.
HISTORY: Final = "trained.json"
# Steps of the first stage and of one round.
LEAST_ROUNDS: Final = 2
EARLIER: Final = " Earlier rounds saw fewer of these pictures (`training/README.md`)."
README: Final = """# The built-in network

`encoder.onnx` and `decoder.onnx` are osamd's own promptable segmentation network: an EfficientNet-Lite2, a
feature pyramid, and a small U-Net that reads clicks, a box and the previous mask. Most convolutions are in int8. Inputs
and outputs are described in `osamd/models/builtin_tensors.py`; how it was trained and quantized, in `training/` of the
repository, which also has the exact graphs. `python -m training.ship` wrote this file.

## What it was trained on

Scenes composed from pictures of Debian and npm packages, each under the licence that its package states, and from
photos of COCO 2017 with free licences. For the first {first_steps} steps the backbone stayed as it was; in tuning,
{tuning_steps} steps, its last three stages were trained, too. After each round of tuning, the weights halfway between
those before and after it were kept.{earlier}
`attribution/` holds the packages' copyright files and licences and says whose photos they are, `manifest.json` what
was taken and what was left out.

| source | version | licence | taken |
|---|---|---|---|
{rows}

The backbone began with the ImageNet weights of the package `{backbone}` {version} ({licence}). No
photo of BSDS, DAVIS, GrabCut or Weizmann was used.
"""


def ship(folder: Path, first_steps: int, start: Path) -> None:
    """Export and quantize what tuning left in ``folder``, and say where it comes from.

    Args:
        folder: what ``training.prepare`` and ``training.train`` filled.
        first_steps: of the first stage, if ``start`` does not tell how long it was trained.
        start: the graphs that tuning began with; the shipped weights are halfway between those and the tuned ones.
    """
    tuning = folder / "tuning"
    history = start / HISTORY
    trained: list[int] = json.loads(history.read_text()) if history.exists() else [first_steps]
    trained.append(export(tuning / "checkpoint.pt", EXACT, start))
    (EXACT / HISTORY).write_text(json.dumps(trained) + "\n")
    quantize(EXACT, folder, PACKAGE)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    rows = [
        f"| `{row['package']}` | {row['version']} | {row['licence']} | "
        + ", ".join(f"{count} {kind}" for kind, count in row["taken"].items())
        + " |"
        for row in manifest["pictures"]
    ]
    backbone = manifest["backbone"]
    text = README.format(
        first_steps=_spaced(trained[0]),
        tuning_steps=" and ".join(map(_spaced, trained[1:])),
        earlier=EARLIER if len(trained) > LEAST_ROUNDS else "",
        rows="\n".join(rows),
        backbone=backbone["package"],
        version=backbone["version"],
        licence=backbone["licence"],
    )
    (PACKAGE / "README.md").write_text(text)
    shutil.copyfile(tuning / "curves.png", Path(__file__).with_name("curves.png"))
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


def _spaced(number: int) -> str:
    """``5800`` to ``5 800``."""
    return f"{number:,}".replace(",", " ")


def main() -> None:
    """Ship a folder's tuned weights."""
    parser = argparse.ArgumentParser(description="Put the tuned network into the package.")
    parser.add_argument("folder", type=Path, help="what training.prepare and training.train filled")
    parser.add_argument("--first-steps", type=int, required=True, help="of the first stage, unless GRAPHS tells")
    parser.add_argument("--start", type=Path, required=True, metavar="GRAPHS", help="what tuning began with")
    arguments = parser.parse_args()
    ship(arguments.folder, arguments.first_steps, arguments.start)


if __name__ == "__main__":
    main()
