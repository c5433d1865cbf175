"""How well everything mode finds the objects of photos with known masks, and how long it takes, in this process.

    python -m benchmarks.everything --objects FOLDER [--model NAME] [--threads 2] [--everything JSON]

FOLDER is as for ``quality.py``. For each known object the best IoU among the masks of its photo counts, at the photo's
own size. Seconds are those of one photo after another, encoding included; CPU seconds are those of all threads.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from benchmarks.quality import iou, objects
from osamd.batch import Segmenter
from osamd.pixels.everything import Proposal

TARGET_IOU, TARGET_S = 0.84, 2.0


def main() -> None:
    """Measure a folder and print one table."""
    parser = argparse.ArgumentParser(description="Mean best IoU of everything mode on photos with known objects.")
    parser.add_argument("--objects", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--everything", type=json.loads, default=True, metavar="JSON")
    arguments = parser.parse_args()
    known = list(objects(arguments.objects))
    bests: list[float] = []
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    counts: list[int] = []
    with Segmenter(arguments.model, threads=arguments.threads) as segment:
        photos = sorted({item.photo for item in known})
        segment(photos[:1], [{"everything": {"max_masks": 1}}])
        for photo in photos:
            start, cpu_start = time.perf_counter(), time.process_time()
            (found,) = segment([photo], [{"everything": arguments.everything}])
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
            masks = found.masks
            counts.append(sum(isinstance(item, Proposal) for item in found.annotations))
            truths = [item.truth for item in known if item.photo == photo]
            bests += [max((iou(mask, truth) for mask in masks), default=0.0) for truth in truths]
    columns = {
        f"mean best IoU (at least {TARGET_IOU})": statistics.mean(bests),
        f"s a photo (at most {TARGET_S:g})": statistics.mean(seconds),
        "CPU s": statistics.mean(cpu_seconds),
        "masks": statistics.mean(counts),
        "most masks": max(counts),
    }
    print(f"| objects | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    print(f"| {len(bests)} | {' | '.join(f'{value:.3g}' for value in columns.values())} |")


if __name__ == "__main__":
    main()
