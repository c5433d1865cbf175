"""The usual protocol on photos with ground truth: ``python -m training.evaluate GRAPHS OBJECTS``.

``benchmarks/quality.py`` measures the same through HTTP. Here the adapter is asked directly, which shows what HTTP
does not: how far the predicted IoU is off, and how often a click makes a mask worse.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from benchmarks import quality
from benchmarks.quality import SHOWN_CLICKS, Click, Known, clicks_until_good, iou, ious_by_clicks

from osamd.models.base import encode_pixels
from osamd.models.builtin import Builtin
from osamd.pixels.masks import full_array, mask_from_logits
from osamd.runtime.sessions import CPU, Placement
from osamd.types import Candidate, Embedding, Prompt

BoolArray = npt.NDArray[np.bool_]

WORSE: Final = 0.02
THREADS: Final = 2


@dataclass
class Outcome:
    """One object: IoU after each click and for its box, predicted IoU of what was asked, and times in seconds."""

    name: str
    ious: list[float] = field(default_factory=list)
    predicted: list[float | None] = field(default_factory=list)
    best: float = 0.0
    box: float = 0.0
    box_predicted: float | None = None
    encode_s: float = 0.0
    click_s: list[float] = field(default_factory=list)


def evaluate(graphs: Path, objects: Path) -> list[Outcome]:
    """Click on every object of a folder with ``images/NAME.jpg`` and ``masks/NAME_NUMBER.png``."""
    adapter = loaded(graphs)
    return [click_on(adapter, known, read_rgb(known.photo)) for known in quality.objects(objects)]


def loaded(graphs: Path) -> Builtin:
    """The network of a folder with ``encoder.onnx`` and ``decoder.onnx``."""
    return Builtin({role: graphs / f"{role}.onnx" for role in ("encoder", "decoder")}, Placement((CPU,), THREADS))


def click_on(adapter: Builtin, known: Known, image: npt.NDArray[np.uint8]) -> Outcome:
    """Ten clicks, a box, and the best of the candidates of one click, on an (H, W, 3) uint8 RGB image."""
    start = time.perf_counter()
    embedding = encode_pixels(adapter, image)
    outcome = Outcome(known.name, encode_s=time.perf_counter() - start)

    def answer(clicks: list[Click]) -> BoolArray:
        prompt = _prompt(clicks)
        start = time.perf_counter()
        (candidate,) = adapter.decode(embedding, prompt, mask_input=None, multimask=False)
        found = mask_of(candidate, embedding)
        outcome.click_s.append(time.perf_counter() - start)
        outcome.predicted.append(candidate.score)
        if len(clicks) == 1:
            several = adapter.decode(embedding, prompt, mask_input=None, multimask=True)
            outcome.best = max(iou(mask_of(item, embedding), known.truth) for item in several)
        return found

    outcome.ious = ious_by_clicks(known.truth, answer)
    boxed_prompt = Prompt(boxes=np.array([known.corners], np.float32))
    (boxed,) = adapter.decode(embedding, boxed_prompt, mask_input=None, multimask=False)
    outcome.box, outcome.box_predicted = iou(mask_of(boxed, embedding), known.truth), boxed.score
    return outcome


def read_rgb(photo: Path) -> npt.NDArray[np.uint8]:
    """A photo's pixels, (H, W, 3) uint8."""
    return np.asarray(cv2.cvtColor(np.asarray(cv2.imread(str(photo))), cv2.COLOR_BGR2RGB), np.uint8)


def mask_of(candidate: Candidate, embedding: Embedding) -> BoolArray:
    """A candidate at the photo's size, (H, W) bool."""
    mask = None
    if candidate.logits is not None:
        mask = mask_from_logits(candidate.logits, height=embedding.height, width=embedding.width)
    if mask is None:
        return np.zeros((embedding.height, embedding.width), np.bool_)
    return full_array(mask) > 0


def table(rows: Mapping[str, Sequence[Outcome]]) -> str:
    """Means over the objects of each row, in Markdown; rows without objects are left out."""
    lines = [(name, outcomes, _means(outcomes)) for name, outcomes in rows.items() if outcomes]
    columns = list(lines[0][2])
    head = f"| | objects | {' | '.join(columns)} |\n{'|---' * (len(columns) + 2)}|\n"
    return head + "\n".join(
        f"| {name} | {len(outcomes)} | {' | '.join(f'{value:.3g}' for value in means.values())} |"
        for name, outcomes, means in lines
    )


def _means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    columns = {f"@{count}": statistics.mean(item.ious[count - 1] for item in outcomes) for count in SHOWN_CLICKS}
    columns["box"] = statistics.mean(item.box for item in outcomes)
    columns["NoC85"] = statistics.mean(clicks_until_good(item.ious) for item in outcomes)
    columns["best of @1"] = statistics.mean(item.best for item in outcomes)
    steps = [(before, after) for item in outcomes for before, after in zip(item.ious, item.ious[1:], strict=False)]
    columns["worse clicks %"] = 100 * statistics.mean(after < before - WORSE for before, after in steps)
    pairs = [
        (predicted, true)
        for item in outcomes
        for predicted, true in [*zip(item.predicted, item.ious, strict=False), (item.box_predicted, item.box)]
        if predicted is not None
    ]
    first = [abs(item.predicted[0] - item.ious[0]) for item in outcomes if item.predicted[0] is not None]
    if pairs:
        columns["IoU error"] = statistics.mean(abs(predicted - true) for predicted, true in pairs)
        columns["IoU error @1"] = statistics.mean(first)
    columns["ms an image"] = 1e3 * statistics.median(item.encode_s for item in outcomes)
    columns["ms a click"] = 1e3 * statistics.median(second for item in outcomes for second in item.click_s)
    return columns


def _prompt(clicks: list[Click]) -> Prompt:
    points = np.array([(click.x, click.y) for click in clicks], np.float32)
    return Prompt(points=points, point_labels=np.array([click.label for click in clicks], np.int64))


def main() -> None:
    """Measure two graphs on a folder of objects."""
    parser = argparse.ArgumentParser(description="IoU by number of clicks.")
    parser.add_argument("graphs", type=Path, help="a folder with encoder.onnx and decoder.onnx")
    parser.add_argument("objects", type=Path, help="a folder with images/ and masks/")
    parser.add_argument("--each", action="store_true", help="also print a line for each object")
    arguments = parser.parse_args()
    outcomes = evaluate(arguments.graphs, arguments.objects)
    if arguments.each:
        for item in sorted(outcomes, key=lambda item: item.ious[0]):
            shown = " ".join(f"{item.ious[count - 1]:.2f}" for count in SHOWN_CLICKS)
            print(f"{item.name:30} {shown}  box {item.box:.2f}")
    print(table({"all": outcomes}))


if __name__ == "__main__":
    main()
