"""What a second click on the same photo costs in each tool's protocol, beside ``/api/generate`` with the same bytes.

python -m benchmarks.doors [--rounds 20]

The built-in model, a photo of 2560 x 1600 pixels (1 MB of JPEG), which each request contains again. Label Studio sends
the photo's address instead, so it is measured beside ``/api/generate`` with ``image_url``; a stand-in for Label Studio
serves the photo, which ``/api/generate`` fetches each time and the door once in ten minutes. Promised: at most 10 ms
more. Exits with 1 if a door takes longer.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.connection import Connection, click_body
from benchmarks.photos import HEIGHT, WIDTH, click, photo, photo_base64
from benchmarks.servers import Server, run_osamd
from benchmarks.spread import ratios, spread
from benchmarks.workbench import settle, turned

MODEL: Final = "builtin"
PHOTO: Final = 0
GENERATE: Final = "/api/generate"
BY_ADDRESS: Final = "image_url"
MOST_MS: Final = 10.0

# An image in base64, or its address, x and y of a click: the request's body.
Body = Callable[[str, int, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Door:
    """A click as a tool sends it.

    Attributes:
        name: as in ``OSAMD_DOORS``.
        path: what it calls.
        body: what it sends.
        headers: what it sends besides.
        beside: what of ``/api/generate`` it is compared with.
    """

    name: str
    path: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)
    beside: str = GENERATE


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


def label_studio(address: str, x: int, y: int) -> Mapping[str, Any]:
    """An interactive call of Label Studio's server."""
    config = """<View><Image name="image" value="$image"/>
<BrushLabels name="mask" toName="image" smart="false"><Label value="Cat"/></BrushLabels>
<KeyPointLabels name="click" toName="image" smart="true" smartOnly="true"><Label value="Cat"/></KeyPointLabels>
</View>"""
    region = {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.26, "keypointlabels": ["Cat"]},
        "is_positive": True,
        "id": "7GX16gvKEv",
        "from_name": "click",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
    lists: Mapping[str, Any] = {"annotations": [], "drafts": [], "predictions": []}
    return {
        "tasks": [{"id": 1, "data": {"image": address}, **lists}],
        "project": "1.1",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": [region]}},
    }


# A further door is a line here.
DOORS: Final = (
    Door("cvat", "/api/function_invocations", cvat, {"x-nuclio-function-name": MODEL, "Accept-Encoding": "gzip"}),
    Door("roboflow", "/roboflow/sam2/segment_image", roboflow),
    Door("x-anylabeling", "/x-anylabeling/v1/predict", x_anylabeling),
    Door("qupath", "/qupath/", qupath),
    Door("label-studio", f"/label-studio/{MODEL}/predict", label_studio, beside=BY_ADDRESS),
)


OWN: Final = (GENERATE, BY_ADDRESS)
NAMES: Final = (*OWN, *(door.name for door in DOORS))


@contextlib.contextmanager
def serve_photo() -> Iterator[str]:
    """The photo on the loopback until the block ends; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """The photo, whatever the path."""
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(photo(PHOTO))))
            self.end_headers()
            self.wfile.write(photo(PHOTO))

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/data/upload/1/photo.jpg"
        finally:
            server.shutdown()
            thread.join()


def ask(connection: Connection, address: str, name: str, number: int) -> float:
    """Click in one of the protocols, by name; returns the seconds it took."""
    image, (x, y) = photo_base64(PHOTO), click(number % 1000)
    if name == GENERATE:
        return connection.post(GENERATE, click_body(MODEL, (x, y), image=image)).seconds
    if name == BY_ADDRESS:
        return connection.post(GENERATE, click_body(MODEL, (x, y), image_url=address)).seconds
    door = DOORS[NAMES.index(name) - len(OWN)]
    body = door.body(image if door.beside == GENERATE else address, x, y)
    return connection.post(door.path, json.dumps(body).encode(), door.headers).seconds


def measure(connection: Connection, address: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of a click in each protocol by name, one a round."""
    taken: dict[str, list[float]] = defaultdict(list)
    for number in range(-2, rounds):
        for name in turned(NAMES, number % len(NAMES)):
            settle()
            seconds = ask(connection, address, name, number)
            if number >= 0:
                taken[name].append(seconds)
    return taken


def measure_cpu(connection: Connection, address: str, server: Server, rounds: int) -> dict[str, float]:
    """The server's processor seconds for a click, which a busy machine changes less."""
    taken = {}
    for name in NAMES:
        before = server.cpu_s()
        for number in range(rounds):
            ask(connection, address, name, number)
        taken[name] = (server.cpu_s() - before) / rounds
    return taken


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="clicks in each protocol")
    rounds = parser.parse_args().rounds
    doors = ",".join(door.name for door in DOORS)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serve_photo())
        place = urlsplit(address)
        env = {
            "OSAMD_PRELOAD": MODEL,
            "OSAMD_DOORS": doors,
            "OSAMD_LABEL_STUDIO_URL": f"{place.scheme}://{place.netloc}",
            "OSAMD_URL_HOSTS": place.netloc,
            "OSAMD_URL_SCHEMES": place.scheme,
            "OSAMD_URL_NETWORKS": "127.0.0.0/8",
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(run_osamd(folder, {}, env))
        connection = stack.enter_context(server.connect())
        taken = measure(connection, address, rounds)
        cpu_s = measure_cpu(connection, address, server, rounds)
    for name in OWN:
        print(f"{name:16} {statistics.median(taken[name]) * 1e3:6.1f} ms; {cpu_s[name] * 1e3:.1f} ms of CPU")
    is_kept = True
    for door in DOORS:
        seconds, generate = taken[door.name], taken[door.beside]
        more = spread([(mine - ours) * 1e3 for mine, ours in zip(seconds, generate, strict=True)])
        times = ratios(seconds, generate)
        is_kept &= more.middle <= MOST_MS
        print(
            f"{door.name:16} {statistics.median(seconds) * 1e3:6.1f} ms, {more.middle:+5.1f} ms"
            f" ({more.low:+.1f} to {more.high:+.1f}), {times.middle:.2f} times;"
            f" {(cpu_s[door.name] - cpu_s[door.beside]) * 1e3:+.1f} ms of CPU"
        )
    print(f"at most {MOST_MS:g} ms more: {'held' if is_kept else 'MISSED'}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
