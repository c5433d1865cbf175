"""What a second click on the same photo costs in each tool's protocol, beside ``/api/generate`` with the same bytes.

python -m benchmarks.doors [--rounds 20]

The built-in model, a photo of 2560 x 1600 pixels (1 MB of JPEG), which each request contains again. Promised: at most
10 ms more. Exits with 1 if a door takes longer. Label Studio is not among them: it sends the photo's address instead.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.connection import Connection, click_body
from benchmarks.photos import click, photo_base64
from benchmarks.servers import Server, run_osamd
from benchmarks.spread import ratios, spread
from benchmarks.workbench import settle, turned

MODEL: Final = "builtin"
PHOTO: Final = 0
GENERATE: Final = "/api/generate"
MOST_MS: Final = 10.0

# An image in base64, x and y of a click: the request's body.
Body = Callable[[str, int, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Door:
    """A click as a tool sends it.

    Attributes:
        name: as in ``OSAMD_DOORS``.
        path: what it calls.
        body: what it sends.
        headers: what it sends besides.
    """

    name: str
    path: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)


def roboflow(image: str, x: int, y: int) -> Mapping[str, Any]:
    """``sam2_segment_image`` of inference-sdk."""
    return {
        "sam2_version_id": MODEL,
        "multimask_output": False,
        "format": "json",
        "prompts": {"prompts": [{"points": [{"x": x, "y": y, "positive": True}]}]},
        "image": {"type": "base64", "value": image},
    }


def qupath(image: str, x: int, y: int) -> Mapping[str, Any]:
    """Of the SAM extension."""
    prompt = {"point_coords": [[x, y]], "point_labels": [1], "multimask_output": False}
    return {"type": "sam2_t", "checkpoint_url": f"osamd:{MODEL}", "b64img": image, **prompt}


def cvat(image: str, x: int, y: int) -> Mapping[str, Any]:
    """A call of an interactor."""
    return {"image": image, "pos_points": [[x, y]], "neg_points": [], "obj_bbox": []}


def x_anylabeling(image: str, x: int, y: int) -> Mapping[str, Any]:
    """Of its Remote Server."""
    params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001}
    marks = [{"type": "point", "data": [x, y], "label": 1}]
    return {"model": MODEL, "image": f"data:image/jpeg;base64,{image}", "params": {**params, "marks": marks}}


# A further door is a line here.
DOORS: Final = (
    Door("cvat", "/api/function_invocations", cvat, {"x-nuclio-function-name": MODEL, "Accept-Encoding": "gzip"}),
    Door("roboflow", "/roboflow/sam2/segment_image", roboflow),
    Door("x-anylabeling", "/x-anylabeling/v1/predict", x_anylabeling),
    Door("qupath", "/qupath/", qupath),
)


NAMES: Final = (GENERATE, *(door.name for door in DOORS))


def ask(connection: Connection, name: str, number: int) -> float:
    """Click in one of the protocols, by name; returns the seconds it took."""
    image, (x, y) = photo_base64(PHOTO), click(number % 1000)
    if name == GENERATE:
        return connection.post(GENERATE, click_body(MODEL, (x, y), image=image)).seconds
    door = DOORS[NAMES.index(name) - 1]
    return connection.post(door.path, json.dumps(door.body(image, x, y)).encode(), door.headers).seconds


def measure(connection: Connection, rounds: int) -> dict[str, list[float]]:
    """Seconds of a click in each protocol by name, one a round."""
    taken: dict[str, list[float]] = defaultdict(list)
    for number in range(-2, rounds):
        for name in turned(NAMES, number % len(NAMES)):
            settle()
            seconds = ask(connection, name, number)
            if number >= 0:
                taken[name].append(seconds)
    return taken


def measure_cpu(connection: Connection, server: Server, rounds: int) -> dict[str, float]:
    """The server's processor seconds for a click, which a busy machine changes less."""
    taken = {}
    for name in NAMES:
        before = server.cpu_s()
        for number in range(rounds):
            ask(connection, name, number)
        taken[name] = (server.cpu_s() - before) / rounds
    return taken


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="clicks in each protocol")
    rounds = parser.parse_args().rounds
    env = {"OSAMD_PRELOAD": MODEL, "OSAMD_DOORS": ",".join(door.name for door in DOORS)}
    with tempfile.TemporaryDirectory() as folder, run_osamd(Path(folder), {}, env) as server, server.connect() as to:
        taken = measure(to, rounds)
        cpu_s = measure_cpu(to, server, rounds)
    generate = taken[GENERATE]
    print(f"{GENERATE:16} {statistics.median(generate) * 1e3:6.1f} ms; {cpu_s[GENERATE] * 1e3:.1f} ms of CPU")
    is_kept = True
    for door in DOORS:
        seconds = taken[door.name]
        more = spread([(mine - ours) * 1e3 for mine, ours in zip(seconds, generate, strict=True)])
        times = ratios(seconds, generate)
        is_kept &= more.middle <= MOST_MS
        print(
            f"{door.name:16} {statistics.median(seconds) * 1e3:6.1f} ms, {more.middle:+5.1f} ms"
            f" ({more.low:+.1f} to {more.high:+.1f}), {times.middle:.2f} times;"
            f" {(cpu_s[door.name] - cpu_s[GENERATE]) * 1e3:+.1f} ms of CPU"
        )
    print(f"at most {MOST_MS:g} ms more: {'held' if is_kept else 'MISSED'}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
