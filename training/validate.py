"""The usual protocol on scenes of pictures that training never drew: ``python -m training.validate NETWORK FOLDER``.

The scenes are those of training, of another seed, composed from the pictures that ``Library.load`` holds back. As many
targets are asked for of each kind: a photograph, a painting, a render, an emoji, a region of the background, two
things that touch, and an object of a photo. What they cannot show is how a real photo differs from a scene:
``evaluate`` measures that.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.quality import Known

from training.evaluate import Outcome, click_on, loaded, table
from training.library import ByteArray, Library
from training.scenes import SceneMaker

SEED: Final = 21
TARGETS: Final = 200
# For each target that is wanted.
MOST_SCENES: Final = 20
# About as large as the photos that others measure with, (rows, columns).
SIZES: Final = ((384, 512), (512, 384), (448, 448))
# Rows of the table, and the kinds of targets in each.
KINDS: Final = {
    "photo": ("photo",),
    "painting": ("painting", "painting-large"),
    "render": ("render", "model"),
    "emoji": ("emoji",),
    "region": ("region",),
    "group": ("group",),
    "object": ("object",),
}
# Largest shares of the image.
AREAS: Final = {"under 2 %": 0.02, "2 to 5 %": 0.05, "5 to 12 %": 0.12, "larger": 1.0}


@dataclass(frozen=True)
class Example:
    """A scene, (H, W, 3) uint8 RGB, and one of its targets."""

    known: Known
    image: ByteArray
    row: str

    @property
    def area(self) -> str:
        """Which row of areas it belongs to."""
        share = self.known.truth.mean()
        return next(name for name, largest in AREAS.items() if share <= largest)


def examples(library: Library, count: int) -> Iterator[Example]:
    """The same ones each time: as many of each kind, of each scene the kind that was chosen least often so far.

    There are fewer if a kind hardly ever comes up.
    """
    rng = np.random.default_rng(SEED)
    maker = SceneMaker(library, rng)
    chosen: Counter[str] = Counter(dict.fromkeys((row for row in KINDS if _has(library, row)), 0))
    most = -(-count // len(chosen))
    for _ in range(MOST_SCENES * count):
        rows, columns = SIZES[int(rng.integers(len(SIZES)))]
        scene = maker.make(rows, columns)
        by_row = {
            row: [target for target in scene.targets if target.kind in KINDS[row]]
            for row in chosen
            if chosen[row] < most
        }
        row = min((row for row, targets in by_row.items() if targets), key=chosen.__getitem__, default=None)
        if row is not None:
            target = by_row[row][int(rng.integers(len(by_row[row])))]
            chosen[row] += 1
            yield Example(Known(f"{row} {chosen[row]}", Path(), scene.mask(target)), scene.image, row)
        if sum(chosen.values()) == count:
            return


def validate(graphs: Path, library: Library, count: int) -> str:
    """Click on targets; means by kind and by area, in Markdown.

    Args:
        graphs: a folder with ``encoder.onnx`` and ``decoder.onnx``, or a checkpoint of ``training.train``.
        library: the pictures that were held back.
        count: how many targets.
    """
    if graphs.is_file():
        # Its exact graphs; PyTorch is needed for this alone.
        from training.export import export  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as exported:
            export(graphs, Path(exported))
            return validate(Path(exported), library, count)
    adapter = loaded(graphs)
    pairs = [(example, click_on(adapter, example.known, example.image)) for example in examples(library, count)]
    return table(rows(pairs))


def rows(pairs: Sequence[tuple[Example, Outcome]]) -> dict[str, list[Outcome]]:
    """All outcomes, those of each kind, and those of each area."""
    found = {"all": [outcome for _, outcome in pairs]}
    found |= {row: [outcome for example, outcome in pairs if example.row == row] for row in KINDS}
    return found | {area: [outcome for example, outcome in pairs if example.area == area] for area in AREAS}


def _has(library: Library, row: str) -> bool:
    """Whether scenes of a library can have targets of a row."""
    wanted = {"region": {"regions"}, "object": {"objects"}, "group": library.kinds()}.get(row, set(KINDS[row]))
    return not library.kinds().isdisjoint(wanted)


def main() -> None:
    """Measure a network on what training never drew."""
    parser = argparse.ArgumentParser(description="IoU by number of clicks on held-back pictures.")
    parser.add_argument("network", type=Path, help="a folder with encoder.onnx and decoder.onnx, or a checkpoint.pt")
    parser.add_argument("folder", type=Path, help="what training.prepare filled")
    parser.add_argument("--targets", type=int, default=TARGETS)
    arguments = parser.parse_args()
    library = Library.load(arguments.folder, held_back=True)
    print(validate(arguments.network, library, arguments.targets))


if __name__ == "__main__":
    main()
