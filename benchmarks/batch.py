"""``osamd batch --boxes-from`` with the built-in model against a plain loop of the same calls, and its memory.

    python -m benchmarks.batch [--photos 500] [--rounds 3]
    python -m benchmarks.batch --memory 2000
    python -m benchmarks.batch --on ray [--photos 500] [--rounds 3]

The photos are crops of ``examples/cat.jpg`` enlarged to 2 megapixels (for memory, half a megapixel) with added grain,
with a box in each. The loop is one process that reads, decodes, encodes, decodes the prompt and writes the run lengths,
photo after photo, with ONNX Runtime's threads at 1 and at one per core; its better rate counts. Each side runs in a
process of its own, in turn, and the clock runs from the first photo to the last, without starting Python or loading the
model.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks import batch_on_ray
from benchmarks.spread import spread
from osamd.batch import Segmenter
from osamd.cli.batch import AT_ONCE
from osamd.dataset.answers import Answers, Found, LocalAnswers
from osamd.dataset.formats import make_format
from osamd.dataset.local import MOST_PARALLEL
from osamd.dataset.planning import Prompts, make_plan
from osamd.dataset.run import open_manifest, run
from osamd.dataset.work import InProcess
from osamd.engine.inference import MaskPixels, decode_prompts, load_model, prepare_image
from osamd.engine.shared_prompts import SharedPrompts
from osamd.image_sources import ImageSource
from osamd.library.library import open_library
from osamd.pixels.run_lengths import runs_at_image_size
from osamd.runtime.container import cpu_count
from osamd.settings import load_settings
from osamd.timings import Timings
from osamd.types import Prompt

ROOT: Final = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 1152, 1728
GRAIN: Final = 6
# The photo at which memory is measured first, and the different photos that are written for it; the others are links.
EARLY: Final = 100
# Of the sides, for measuring memory: growth by photo does not depend on their size.
SMALLER: Final = 2


def write_photos(folder: Path, count: int, *, distinct: int | None = None, smaller: int = 1) -> Path:
    """Write photos and COCO JSON with their boxes; returns the JSON file.

    Args:
        folder: where.
        count: how many.
        distinct: different ones; the others are links to them. None: all.
        smaller: by what to divide their sides.
    """
    width, height = WIDTH // smaller, HEIGHT // smaller
    folder.mkdir(parents=True)
    cat = np.asarray(cv2.imread(str(ROOT / "examples" / "cat.jpg")))
    images, annotations = [], []
    for number in range(count):
        noise = np.random.default_rng(number % (distinct or count))
        left, top = int(noise.integers(0, 60)), int(noise.integers(0, 40))
        name = f"{number:05d}.jpg"
        if distinct and number >= distinct:
            (folder / name).hardlink_to(folder / f"{number % distinct:05d}.jpg")
        else:
            large = cv2.resize(cat[top : top + 240, left : left + 360], (width, height), interpolation=cv2.INTER_CUBIC)
            grain = noise.integers(-GRAIN, GRAIN + 1, large.shape)
            cv2.imwrite(str(folder / name), np.clip(large + grain, 0, 255).astype(np.uint8))
        images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
        box = [side // smaller for side in (300 - left, 200 - top, 1100, 800)]
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, "bbox": box, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def plain_loop(boxes: Path, out: Path, threads: int) -> float:
    """Seconds of the loop."""
    settings = load_settings(threads=threads, device="cpu")
    library = open_library(settings)
    adapter = load_model(library.resolve("builtin"), store=library.store, settings=settings)
    content = json.loads(boxes.read_text())
    start = time.perf_counter()
    with (out / "rows.jsonl").open("w") as file:
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            data = (boxes.parent / image["file_name"]).read_bytes()
            prepared = prepare_image(adapter, ImageSource.of_bytes(data), WIDTH * HEIGHT, Timings())
            embedding = adapter.encode(prepared)
            x, y, width, height = annotation["bbox"]
            prompt = Prompt(boxes=np.array([[x, y, x + width - 1, y + height - 1]], np.float32))
            steps = decode_prompts(
                adapter,
                embedding,
                [prompt],
                [None],
                turn=SharedPrompts(1).first_to_last,
                multimask=False,
                mask_pixels=MaskPixels(WIDTH * HEIGHT),
                timings=Timings(),
            )
            found: Any = None
            while found is None:
                try:
                    next(steps)
                except StopIteration as end:
                    found = end.value
            runs = [runs_at_image_size(one.mask).counts for one in found]
            file.write(json.dumps({"image": image["file_name"], "counts": runs}) + "\n")
    return time.perf_counter() - start


class Watched:
    """Answers that note the process's memory at the photo ``EARLY`` and at the last."""

    def __init__(self, answers: Answers, count: int) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._left = {EARLY, count}
        self._done = 0
        self.resident: dict[int, int] = {}

    def __call__(self, data: bytes, prompts: Sequence[Mapping[str, Any]]) -> list[Found]:
        """The same answers."""
        found = self._answers(data, prompts)
        with self._lock:
            self._done += 1
            if self._done in self._left:
                self.resident[self._done] = resident_bytes()
        return found


def resident_bytes() -> int:
    """Of this process."""
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1024


def with_osamd(boxes: Path, out: Path, count: int) -> tuple[float, dict[int, int]]:
    """Seconds of ``osamd batch``, and resident bytes by photo."""
    plan = make_plan([str(boxes)], Prompts(), model="builtin", digest="", shard_size=200)
    manifest = open_manifest(out / "batch", plan)
    cores = cpu_count()
    parallel = min(cores, MOST_PARALLEL)
    with Segmenter("builtin", device="cpu", threads=max(1, cores // parallel), parallel=parallel) as segmenter:
        watched = Watched(LocalAnswers(segmenter), count)

        @contextlib.contextmanager
        def answers() -> Iterator[Answers]:
            yield watched

        formats = {"coco": make_format("coco", out / "batch", manifest.header)}
        start = time.perf_counter()
        run(
            manifest,
            out / "batch",
            formats=formats,
            workers=InProcess(answers, at_once=AT_ONCE),
            stop=threading.Event(),
        )
        return time.perf_counter() - start, watched.resident


def side(name: str, boxes: Path, count: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    with tempfile.TemporaryDirectory(dir=boxes.parent.parent) as out:
        command = [sys.executable, "-m", "benchmarks.batch", "--side", name, "--boxes", str(boxes), "--out", out]
        ended = subprocess.run([*command, "--photos", str(count)], check=True, stdout=subprocess.PIPE)  # noqa: S603
        result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return result


def compare_ray(boxes: Path, count: int, rounds: int) -> None:
    """Print the rates of two workers on Ray and of two processes, and their ratio by round."""
    ratios = []
    for number in range(rounds):
        rates = {}
        for name in ("ray", "processes") if number % 2 == 0 else ("processes", "ray"):
            with tempfile.TemporaryDirectory(dir=boxes.parent.parent) as out:
                rates[name] = count / batch_on_ray.seconds(name, boxes, Path(out))
        ratios.append(rates["ray"] / rates["processes"])
        print({name: round(rate, 2) for name, rate in rates.items()}, f"ratio {ratios[-1]:.3f}")
    found = spread(ratios)
    print(f"ratio {found.middle:.3f} ({found.low:.3f} to {found.high:.3f}; target at least 0.95)")


def main() -> None:
    """Compare, or run one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="PHOTOS", help="measure memory instead of time")
    parser.add_argument("--on", choices=("ray",), help="compare two workers on Ray with two processes")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--boxes", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side in {"ray", "process"}:
        (batch_on_ray.on_ray if arguments.side == "ray" else batch_on_ray.one_process)(arguments.boxes, arguments.out)
        return
    if arguments.side == "osamd":
        seconds, resident = with_osamd(arguments.boxes, arguments.out, arguments.photos)
        print(json.dumps({"seconds": seconds, "cpu": time.process_time(), "resident": resident}))
        return
    if arguments.side:
        seconds = plain_loop(arguments.boxes, arguments.out, int(arguments.side))
        print(json.dumps({"seconds": seconds, "cpu": time.process_time()}))
        return
    if arguments.memory is not None and arguments.memory <= EARLY:
        parser.error(f"--memory: expected more than {EARLY} photos")
    count = arguments.memory or arguments.photos
    with tempfile.TemporaryDirectory(prefix="osamd-bench-") as folder:
        if arguments.memory:
            boxes = write_photos(Path(folder) / "photos", count, distinct=EARLY, smaller=SMALLER)
            early, late = side("osamd", boxes, count)["resident"].values()
            print(f"resident: {early / 1e6:.0f} MB at photo {EARLY}, {late / 1e6:.0f} MB at photo {count}")
            print(f"ratio {late / early:.3f} (target at most 1.05)")
            return
        boxes = write_photos(Path(folder) / "photos", count)
        (compare_ray if arguments.on else compare)(boxes, count, arguments.rounds)


def compare(boxes: Path, count: int, rounds: int) -> None:
    """Print the rates of both sides, and their ratio by round."""
    ratios = []
    for number in range(rounds):
        names = ["osamd", "1", str(cpu_count())]
        order = names if number % 2 == 0 else names[::-1]
        rates = {name: count / side(name, boxes, count)["seconds"] for name in order}
        best = max(rate for name, rate in rates.items() if name != "osamd")
        ratios.append(rates["osamd"] / best)
        print({name: round(rate, 2) for name, rate in rates.items()}, f"ratio {ratios[-1]:.2f}")
    found = spread(ratios)
    print(f"ratio {found.middle:.2f} ({found.low:.2f} to {found.high:.2f}; target at least 1.3)")


if __name__ == "__main__":
    main()
