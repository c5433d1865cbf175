"""Several osamds behind a load balancer that hashes a header: clicks find their embedding, and a death is healed."""

import contextlib
import io
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from asking import CLICK
from balancing import BALANCERS, run_balancer
from PIL import Image
from serving import KEY, RunningServer, run_server
from waiting import WAIT_S

from osamd.client import Client, Segmentation

REPLICAS = 2
PHOTOS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all replicas."""
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[list[RunningServer]]:
    """Replicas that share a folder of embeddings; the last test kills one."""
    environment = {"API_KEY": KEY, "OSAMD_THREADS": "1", "OSAMD_EMBEDDING_DISK_BYTES": "1000000000"}
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(run_server(cache=folder, env=environment)) for _ in range(REPLICAS)]


@contextlib.contextmanager
def balanced(kind: str, running: list[RunningServer], folder: Path) -> Iterator[tuple[Client, ThreadPoolExecutor]]:
    """A client of the balancer, and threads to ask with."""
    addresses = [server.url.removeprefix("http://") for server in running]
    with (
        run_balancer(kind, addresses, folder) as url,
        Client(url, api_key=KEY) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        yield client, pool


def photos(photo: bytes, seed: int) -> list[bytes]:
    """Photos that differ by a pixel."""
    pixels = np.array(Image.open(io.BytesIO(photo)).convert("RGB"))
    found = []
    for number in range(PHOTOS):
        pixels[0, 0] = number, seed, 0
        written = io.BytesIO()
        Image.fromarray(pixels).save(written, "PNG", compress_level=1)
        found.append(written.getvalue())
    return found


def encodes(server: RunningServer) -> int:
    """How many images a replica has encoded."""
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("osamd_stage_seconds_count") and '"encode"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts)


@pytest.mark.parametrize("kind", list(BALANCERS))
def test_every_click_finds_its_embedding(
    running: list[RunningServer], folder: Path, tmp_path: Path, photo: bytes, kind: str
) -> None:
    """Each replica has its own share of the photos in memory, and no click by handle goes to another."""
    before = [encodes(server) for server in running]
    with balanced(kind, running, tmp_path) as (client, pool):
        handles = list(pool.map(lambda image: client.embed(image).image_id, photos(photo, list(BALANCERS).index(kind))))
        for file in wait_for_files(folder, PHOTOS):
            file.unlink()
        # Without files, a replica that does not have the image answers 410.
        clicks = list(pool.map(lambda image_id: client.segment(image_id=image_id, points=[CLICK]), handles))
        refined = list(pool.map(refine, [client] * PHOTOS, clicks))

    shares = [encodes(server) - earlier for server, earlier in zip(running, before, strict=True)]
    assert PHOTOS == len(set(handles)) == len(refined) == sum(shares)
    assert min(shares) > 0, shares


def refine(client: Client, found: Segmentation) -> Segmentation:
    """A second click, on the mask of the first."""
    mask_id = found.annotations[0].mask_id
    return client.segment(image_id=found.image_id, points=[CLICK], mask_input=mask_id)


def test_a_killed_replica_loses_no_click(
    running: list[RunningServer], folder: Path, tmp_path: Path, photo: bytes
) -> None:
    """Killed under clicks: the others read its embeddings, and every click is answered with the same mask."""
    with balanced("haproxy", running, tmp_path) as (client, pool):
        before = list(pool.map(lambda image: client.segment(image, points=[CLICK]), photos(photo, 9)))
        wait_for_files(folder, PHOTOS)
        asked = [pool.submit(client.segment, image_id=before[i % PHOTOS].image_id, points=[CLICK]) for i in range(60)]
        asked[10].result()
        running[0].process.send_signal(signal.SIGKILL)
        after = [future.result() for future in asked]

    assert running[0].process.wait(WAIT_S) == -signal.SIGKILL
    for number, found in enumerate(after):
        assert before[number % PHOTOS].annotations[0].mask_png == found.annotations[0].mask_png


def wait_for_files(folder: Path, count: int) -> list[Path]:
    """The embeddings on disk, once there are so many: they are written in the background."""
    until = time.monotonic() + WAIT_S
    while len(files := embeddings_in(folder)) < count:
        assert time.monotonic() < until
        time.sleep(0.02)
    return files


def embeddings_in(folder: Path) -> list[Path]:
    """The embeddings on disk; folders that go while this looks are unfinished ones."""
    return [
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.startswith("img_") and name.endswith(".npz")
    ]
