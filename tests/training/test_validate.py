from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.quality import Known
from training.evaluate import Outcome, table
from training.library import Library
from training.validate import SIZES, Example, examples, rows

KINDS: Final = {"photo", "painting", "region", "group"}


def test_validation_asks_for_as_many_of_each_kind(library: Library) -> None:
    """Of the kinds that there are; the same targets each time, which are seen in their scenes."""
    found = list(examples(library, 8))

    assert dict.fromkeys(KINDS, 2) == {row: sum(example.row == row for example in found) for row in KINDS}
    for example in found:
        assert example.image.shape[:2] in SIZES
        assert example.known.truth.shape == example.image.shape[:2]
        assert example.known.truth.any()
    for example, again in zip(found, examples(library, 8), strict=True):
        np.testing.assert_array_equal(example.image, again.image)
        np.testing.assert_array_equal(example.known.truth, again.known.truth)


def test_validation_shows_means_by_kind_and_area() -> None:
    """Every target counts in one row of kinds and one of areas, and rows without targets are left out."""
    pairs = []
    for kind, share, first in (("photo", 0.01, 0.5), ("photo", 0.3, 0.75), ("emoji", 0.1, 1.0)):
        truth = np.zeros((10, 100), np.bool_)
        truth.flat[: int(1000 * share)] = True
        example = Example(Known(kind, Path(), truth), np.zeros((10, 100, 3), np.uint8), kind)
        pairs.append((example, Outcome(kind, [first] + [1.0] * 9, [0.9] * 10, 1.0, first, 0.9, 0.05, [0.02] * 10)))

    head, _, *lines = table(rows(pairs)).splitlines()

    assert head.startswith("| | objects | @1 | @3 | @5 | @10 | box | NoC85 | best of @1 | worse clicks % | IoU error |")
    assert [
        "| all | 3 | 0.75 |",
        "| photo | 2 | 0.625 |",
        "| emoji | 1 | 1 |",
        "| under 2 % | 1 | 0.5 |",
        "| 5 to 12 % | 1 | 1 |",
        "| larger | 1 | 0.75 |",
    ] == ["|".join(line.split("|")[:4]) + "|" for line in lines]
