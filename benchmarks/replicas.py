"""Put replicas behind HAProxy, and report what the way costs a click, and whether clicks find their embeddings.

python benchmarks/replicas.py [--clicks 200] [--photos 40] [--image FILE]

With 2 and with 3 replicas, in memory alone: photos are embedded through the balancer, then each is clicked by handle;
410 means that the wrong replica was asked. Then clicks on one photo, by turns to its replica and through the balancer;
and the same with requests that fail at once, which shows the way alone. Last, with a shared folder of embeddings, a
replica is killed while four clients click. Exits with 1 if a target is missed.
"""

import argparse
import contextlib
import io
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
from PIL import Image

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from balancing import run_balancer  # noqa: E402
from serving import RunningServer, run_server  # noqa: E402

from osamd.client import Client, Segmentation  # noqa: E402
from osamd.client.routing import headers_of_handle  # noqa: E402

KEY: Final = "benchmark-key-0123456789"  # pragma: allowlist secret
CLICK: Final = (225.0, 150.0)
ADDED_MS: Final = 1.0
LOST: Final = 0.01
CLIENTS: Final = 4
OK: Final = 200
HALF: Final = 127
ROUNDING: Final = 1e-4


@dataclass(frozen=True)
class Added:
    """Medians in milliseconds, of clicks and of requests for an unknown handle."""

    direct_ms: float
    balanced_ms: float
    unknown_direct_ms: float
    unknown_balanced_ms: float

    @property
    def added_ms(self) -> float:
        """What the balancer adds to a click."""
        return self.balanced_ms - self.direct_ms


@contextlib.contextmanager
def replicas(count: int, folder: Path, **environment: str) -> Iterator[list[RunningServer]]:
    """Running replicas with one cache folder and one thread each."""
    env = {"API_KEY": KEY, "OSAMD_THREADS": "1"} | environment
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(run_server(cache=folder, env=env)) for _ in range(count)]


@contextlib.contextmanager
def balanced(running: Sequence[RunningServer]) -> Iterator[str]:
    """The balancer's URL."""
    addresses = [server.url.removeprefix("http://") for server in running]
    with tempfile.TemporaryDirectory() as folder, run_balancer("haproxy", addresses, Path(folder)) as url:
        yield url


def photos(file: Path, count: int) -> list[bytes]:
    """The image many times, different by a pixel."""
    picture = Image.open(file).convert("RGB")
    found = []
    for number in range(count):
        picture.putpixel((0, 0), (number, 0, 0))
        written = io.BytesIO()
        picture.save(written, "PNG", compress_level=1)
        found.append(written.getvalue())
    return found


def differ(one: Segmentation, two: Segmentation) -> bool:
    """Whether masks differ by more than files in half precision explain: a pixel in ten thousand."""
    first, second = (np.asarray(Image.open(io.BytesIO(found.annotations[0].mask_png))) > HALF for found in (one, two))
    return bool((first != second).mean() > ROUNDING)


def click(http: httpx2.Client, image_id: str) -> int:
    """One click by handle, without retries: the status of the answer, 0 if there was none."""
    body = {"image_id": image_id, "prompt": {"points": [CLICK], "point_labels": [1]}, "mask_format": "rle"}
    try:
        answer = http.post("/api/generate", json=body, headers=headers_of_handle(image_id))
    except httpx2.TransportError:
        return 0
    return answer.status_code


def asking(url: str) -> httpx2.Client:
    """A plain client with the key."""
    return httpx2.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60.0, trust_env=False)


def hits(count: int, pictures: Sequence[bytes]) -> float:
    """The share of first clicks that find their embedding in memory."""
    with (
        tempfile.TemporaryDirectory() as folder,
        replicas(count, Path(folder)) as running,
        balanced(running) as url,
        Client(url, api_key=KEY) as client,
        asking(url) as http,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        handles = list(pool.map(lambda picture: client.embed(picture).image_id, pictures))
        statuses = list(pool.map(lambda image_id: click(http, image_id), handles))
    return statuses.count(OK) / len(statuses)


def added(pictures: Sequence[bytes], clicks: int) -> Added:
    """Clicks by turns to the replica and through the balancer."""
    times: dict[tuple[str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, replicas(2, Path(folder)) as running, balanced(running) as url:
        with Client(url, api_key=KEY) as client:
            image_id = client.embed(pictures[0]).image_id
        unknown = image_id[:12] + "0" * 24
        with contextlib.ExitStack() as opened:
            clients = [opened.enter_context(asking(server.url)) for server in running]
            (owner,) = [one for one in clients if click(one, image_id) == OK]
            through = opened.enter_context(asking(url))
            for _ in range(clicks):
                for handle in (image_id, unknown):
                    for name, http in (("direct", owner), ("balanced", through)):
                        start = time.perf_counter()
                        click(http, handle)
                        times.setdefault((name, handle == image_id), []).append(time.perf_counter() - start)
    middle = {key: 1000 * statistics.median(values) for key, values in times.items()}
    return Added(middle["direct", True], middle["balanced", True], middle["direct", False], middle["balanced", False])


def killed(pictures: Sequence[bytes], clicks: int) -> dict[str, Any]:
    """What clients see while one of two replicas is killed: statuses without retries, and masks that differ."""
    with tempfile.TemporaryDirectory() as folder:
        disk = {"OSAMD_EMBEDDING_DISK_BYTES": "2000000000"}
        with (
            replicas(2, Path(folder), **disk) as running,
            balanced(running) as url,
            Client(url, api_key=KEY) as client,
            asking(url) as http,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            before = list(pool.map(lambda picture: client.segment(picture, points=[CLICK]), pictures))
            while len(list(Path(folder).rglob("img_*.npz"))) < len(pictures):
                time.sleep(0.05)
            handles = [before[number % len(before)] for number in range(clicks)]
            statuses = [pool.submit(click, http, one.image_id) for one in handles]
            statuses[clicks // 4].result()
            running[0].process.send_signal(signal.SIGKILL)
            seen = Counter(future.result() for future in statuses)
            again = list(pool.map(lambda one: client.segment(image_id=one.image_id, points=[CLICK]), before))
        wrong = sum(differ(one, two) for one, two in zip(before, again, strict=True))
    return {"statuses": dict(seen), "wrong": wrong}


def asked_for(description: str | None) -> tuple[int, Sequence[bytes]]:
    """The number of clicks, and the photos, that the command line asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=200)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--image", type=Path, default=ROOT / "examples" / "cat.jpg")
    arguments = parser.parse_args()
    return arguments.clicks, photos(arguments.image, arguments.photos)


def main() -> int:
    """Measure, print, and say whether the targets are met."""
    clicks, pictures = asked_for(__doc__)
    found = {count: hits(count, pictures) for count in (2, 3)}
    way = added(pictures, clicks)
    death = killed(pictures, clicks)
    lost = sum(count for status, count in death["statuses"].items() if status != OK) / clicks
    print(
        json.dumps(
            {
                "hits": found,
                "click_ms": [round(way.direct_ms, 2), round(way.balanced_ms, 2)],
                "unknown_handle_ms": [round(way.unknown_direct_ms, 2), round(way.unknown_balanced_ms, 2)],
                "killed": death,
            }
        )
    )
    kept = {
        "every first click finds its embedding": set(found.values()) == {1.0},
        f"at most {ADDED_MS:g} ms more": way.added_ms <= ADDED_MS,
        "no wrong mask while a replica is killed": death["wrong"] == 0,
        f"at most {LOST:.0%} of the clicks refused while a replica is killed": lost <= LOST,
    }
    for name, holds in kept.items():
        print("met   " if holds else "MISSED", name)
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
