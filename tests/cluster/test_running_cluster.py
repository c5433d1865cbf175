"""A cluster on this machine: clicks find their embedding, and whatever dies or changes, no click is lost or wrong."""

import contextlib
import io
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import GENERATE, click
from cluster_process import (
    CONTROLLER,
    EDGE,
    PROXY,
    SEGMENTER,
    RunningCluster,
    command_of,
    listening,
    run_cluster,
    wait_for,
)
from comparing import comparable
from kept_files import kept_embeddings
from pictures import base64_of
from PIL import Image
from serving import KEY, run_server

from osamd.client import Client, Segmentation
from osamd.client.routing import headers_of_handle
from osamd.cluster.haproxy import EDITS
from osamd.cluster.processes import descendants

pytestmark = [
    pytest.mark.cluster,
    # Ray's own.
    pytest.mark.filterwarnings("ignore"),
]

PHOTOS = 40
WORKED_ON = 10
CLICK = (60.0, 40.0)
MORE_CLICKS = 30
ROUNDING = 1e-3
MEGABYTES = 1_000_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Two edges and two Segmenters, which keep embeddings in memory alone."""
    with run_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[Client]:
    """A client that retries for as long as anything takes to come back."""
    with Client(cluster.url, api_key=KEY, patience_s=180.0) as client:
        yield client


def photos(count: int, seed: int) -> list[bytes]:
    """Photos that differ: an ellipse on noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :128]
    found = []
    for _ in range(count):
        height, width = rng.integers(15, 40, size=2)
        inside = ((rows - 40) / height) ** 2 + ((columns - 60) / width) ** 2 < 1
        pixels = rng.integers(0, 60, size=(96, 128, 3)) + inside[..., None] * rng.integers(60, 190, size=3)
        found.append(written(pixels.astype(np.uint8)))
    return found


def written(pixels: "np.ndarray[Any, Any]") -> bytes:
    """As PNG, hardly compressed."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def clicked(cluster: RunningCluster, handles: Sequence[str]) -> Counter[tuple[int, str | None]]:
    """Statuses of one click on each, without retries, and whether the embedding was there."""
    with cluster.http() as http, ThreadPoolExecutor(4) as pool:

        def ask(image_id: str) -> tuple[int, str | None]:
            body = {"image_id": image_id, "prompt": click([60, 40]), "mask_format": "rle"}
            answer = http.post(GENERATE, json=body, headers=headers_of_handle(image_id))
            return answer.status_code, answer.headers.get("X-Osamd-Cache")

        return Counter(pool.map(ask, handles))


def differ(one: Segmentation, two: Segmentation) -> bool:
    """Whether masks differ by more than embeddings in half precision explain."""
    first, second = (np.asarray(Image.open(io.BytesIO(found.annotations[0].mask_png))) > 127 for found in (one, two))
    return bool((first != second).mean() > ROUNDING)


class Clicking:
    """Three clients that click on photos until they are told to stop."""

    def __init__(self, client: Client, before: Sequence[Segmentation]) -> None:
        self._client, self._before = client, before
        self._is_over = threading.Event()
        self.done = 0
        self.wrong = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Click while the block runs, and a while longer; an error of a client is raised."""
        with ThreadPoolExecutor(3) as pool:
            clients = [pool.submit(self._click, seed) for seed in range(3)]
            try:
                self.wait_for_more(MORE_CLICKS, clients)
                yield
                self.wait_for_more(MORE_CLICKS, clients)
            finally:
                self._is_over.set()
            for one in clients:
                one.result()

    def wait_for_more(self, count: int, clients: Sequence[Any]) -> None:
        """Return after so many more clicks."""
        until = self.done + count
        wait_for(lambda: self.done >= until or any(one.done() for one in clients), f"{count} clicks")

    def _click(self, seed: int) -> None:
        chosen = random.Random(seed)  # noqa: S311 - which photo is no secret
        while not self._is_over.is_set():
            expected = chosen.choice(self._before)
            found = self._client.segment(image_id=expected.image_id, points=[CLICK])
            self.done += 1
            self.wrong += differ(expected, found)


def on_disk(cluster: RunningCluster, client: Client, seed: int) -> list[Segmentation]:
    """Photos whose embeddings are in the shared folder, each with its first mask."""
    folder = cluster.log.parent
    before = len(kept_embeddings(folder))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda photo: client.segment(photo, points=[CLICK]), photos(WORKED_ON, seed)))
    wait_for(lambda: len(kept_embeddings(folder)) >= before + WORKED_ON, "files of embeddings")
    return found


PARTS = (f"ServeReplica:osamd:{SEGMENTER}", f"ServeReplica:osamd:{EDGE}", CONTROLLER, PROXY)
DISK = {"OSAMD_EMBEDDING_DISK_BYTES": "1000000000"}
UPDATED = DISK | {"OSAMD_LOG_LEVEL": "warning"}


def test_nothing_listens_beyond_loopback(cluster: RunningCluster) -> None:
    """Of all processes of a cluster on this machine."""

    def all_listening() -> dict[str, str] | None:
        found = listening([cluster.process.pid, *descendants(cluster.process.pid)])
        # HAProxy changes its process while it takes in its first routes.
        return found if f"127.0.0.1:{cluster.port}" in found else None

    found = wait_for(all_listening, "HAProxy")
    assert {} == {address: owner for address, owner in found.items() if not address.startswith("127.")}


def test_haproxys_configuration_is_edited(cluster: RunningCluster) -> None:
    """The pinned Ray's has each line that ``EDITS`` looks for, and no request is sent to this machine's syslog."""
    commands = [command_of(pid).split() for pid in descendants(cluster.process.pid)]
    (file,) = {word for command in commands for word in command if word.endswith("/haproxy.cfg")}
    text = Path(file).read_text("utf-8")
    for new in EDITS.values():
        assert new.replace(r"\n", "\n") in text
    assert "127.0.0.1:514" not in text


@pytest.mark.parametrize("segmenters", [2, 3])
def test_every_first_click_finds_its_embedding(cluster: RunningCluster, client: Client, segmenters: int) -> None:
    """In memory alone, through both edges; each Segmenter has its own share, and is one more at three."""
    cluster.deploy(segmenters)
    with ThreadPoolExecutor(4) as pool:
        handles = list(pool.map(lambda photo: client.embed(photo).image_id, photos(PHOTOS, segmenters)))
    assert {(200, "hit"): PHOTOS} == clicked(cluster, handles)


def test_answers_are_those_of_a_plain_server(cluster: RunningCluster, tmp_path: Path) -> None:
    """Masks, streams, handles, refinements, embeddings and refusals, byte for byte."""
    cluster.deploy(2)
    with run_server(cache=tmp_path, env={"API_KEY": KEY, "OSAMD_THREADS": "1"}) as plain:
        with plain.client() as http:
            expected = asked(http)
        with cluster.http() as http:
            found = asked(http)
    for one, other in zip(expected, found, strict=True):
        assert one == other


def asked(http: httpx2.Client) -> list[Any]:
    """Answers to the same requests, known photos included."""
    replies = []
    lines = {"Accept": "application/x-ndjson"}
    for photo in (photos(1, 77)[0], written(np.random.default_rng(7).integers(0, 256, (200, 200, 3), np.uint8))):
        body = {"image": base64_of(photo), "prompt": click([60, 40])}
        grid = {**body, "prompt": {"everything": {"points_per_side": 3}}, "mask_format": "rle"}
        first = http.post(GENERATE, json={**body, "include": ["image_embedding"]})
        handle = {"image_id": first.json()["image_id"], "prompt": click([60, 40])}
        mask = {"mask_input": first.json()["annotations"][0]["mask_id"]}
        replies += [
            first,
            *(http.post(GENERATE, json=handle | {"mask_format": kind}) for kind in ("png", "rle", "polygon")),
            http.post(GENERATE, json=body | {"mask_format": "cutout", "mask_layout": "crop"}),
            http.post(GENERATE, json=handle | {"prompt": click([70, 50]) | mask}),
            http.post(GENERATE, json=body, headers={"Accept": "image/png"}),
            *(http.post(GENERATE, json=grid, headers=headers) for headers in (lines, {})),
            http.post("/api/embed", json={"image": body["image"]}),
            http.post(GENERATE, json=handle | {"prompt": click([9999, 1])}),
            http.post(GENERATE, json=handle | {"model": "sam2:tiny"}),
            http.post(GENERATE, json=body | {"model": "sam2:tiny"}),
            http.delete(f"/api/images/{handle['image_id']}"),
            http.post(GENERATE, json=handle),
        ]
    replies += [http.get(path) for path in ("/api/version", "/api/ps", "/api/tags", "/openapi.json")]
    return [comparable(reply) for reply in replies]


def test_metrics_are_those_of_all(cluster: RunningCluster) -> None:
    """Each Segmenter's series have its label."""
    cluster.deploy(2)
    with cluster.http() as http:
        text = http.get("/metrics").text
    assert 2 == len(set(re.findall(r'osamd_model_bytes\{segmenter="([^"]+)"', text)))


def test_a_request_is_logged(cluster: RunningCluster) -> None:
    """By its edge, as ``osamd serve`` does, in the folder that the command names."""
    name = "a-request-that-is-logged"
    with cluster.http() as http:
        http.post(GENERATE, json={}, headers={"X-Request-Id": name})
    lines = wait_for(lambda: [line for line in cluster.log_lines() if name in line], "a line", limit_s=10.0)
    assert [("RequestDone", 422)] == [(line["event"], line["status"]) for line in map(json.loads, lines)]


def test_a_large_photo(cluster: RunningCluster, client: Client) -> None:
    """20 MB, which is more than gRPC takes by default."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(2600, 2600, 3), dtype=np.uint8)
    photo = written(pixels)
    assert len(photo) > 20 * MEGABYTES
    found = client.segment(photo, points=[(1300.0, 1300.0)])
    assert {(200, "hit"): 1} == clicked(cluster, [found.image_id])


def test_a_client_that_leaves(cluster: RunningCluster, client: Client) -> None:
    """Its prompts are not computed to the end: the Segmenter is free long before it would have been."""
    image_id = client.embed(photos(1, 99)[0]).image_id
    body = {"image_id": image_id, "prompts": [click([n % 128, n % 96]) for n in range(64)], "mask_format": "none"}
    headers = headers_of_handle(image_id)
    with cluster.http() as http:
        begun = time.monotonic()
        assert http.post(GENERATE, json=body, headers=headers).status_code == 200
        whole_s = time.monotonic() - begun
    with cluster.http() as http, pytest.raises(httpx2.ReadTimeout):
        http.post(GENERATE, json=body, headers=headers, timeout=whole_s / 8)
    begun = time.monotonic()
    client.segment(image_id=image_id, points=[CLICK])
    assert time.monotonic() - begun < whole_s / 2


def test_a_full_queue(cluster: RunningCluster) -> None:
    """Clients beyond what may wait get 503 with Retry-After at once; the others are answered."""
    cluster.deploy(2, max_ongoing_requests=1, max_queued_requests=1)
    with cluster.http() as http, ThreadPoolExecutor(24) as pool:
        bodies = [{"image": base64_of(photo), "prompt": click([60, 40])} for photo in photos(24, 5)]
        answers = list(pool.map(lambda body: http.post(GENERATE, json=body), bodies))
    statuses = Counter(answer.status_code for answer in answers)
    assert {200, 503} == set(statuses), statuses
    for answer in answers:
        if answer.status_code == 503:
            assert "overloaded" == answer.json()["code"]
            assert int(answer.headers["Retry-After"]) >= 1


def test_an_update_and_fewer_segmenters_lose_no_click(cluster: RunningCluster, client: Client) -> None:
    """A new configuration renews the Segmenters, and then removes one, under clicks; edges stay as they are."""
    cluster.deploy(2, env=DISK)
    before = on_disk(cluster, client, 6)
    edges, segmenters = cluster.replicas(EDGE), cluster.replicas(SEGMENTER)
    clicking = Clicking(client, before)
    with clicking.running():
        cluster.deploy(2, env=UPDATED)
        assert not set(segmenters) & set(cluster.replicas(SEGMENTER))
        cluster.deploy(1, env=UPDATED)
    assert 0 == clicking.wrong
    assert set(edges) == set(cluster.replicas(EDGE))


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_loses_no_click(cluster: RunningCluster, client: Client, part: str) -> None:
    """The client's retries heal what is lost, no mask is wrong, and the part comes back."""
    cluster.deploy(2, env=UPDATED)
    before = on_disk(cluster, client, 10 + PARTS.index(part))
    count = len(cluster.parts(part))
    clicking = Clicking(client, before)
    with clicking.running():
        victim = cluster.kill(part)
        wait_for(lambda: victim not in cluster.parts(part) and len(cluster.parts(part)) >= count, "a replacement")
    assert 0 == clicking.wrong
    wait_for(lambda: cluster.is_settled(2), "two Segmenters")


def test_to_zero_and_back(cluster: RunningCluster, client: Client) -> None:
    """Without requests no Segmenter runs, and the cluster is ready all the same; the next photo starts one."""
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_ongoing_requests": 6,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
        "downscale_to_zero_delay_s": 1,
        "look_back_period_s": 2,
    }
    cluster.deploy(0, env=UPDATED, autoscaling_config=scaling)
    assert [] == cluster.replicas(SEGMENTER)
    with cluster.http() as http:
        assert http.get("/health").status_code == 200
        assert http.get("/ready").json()["status"] == "ready"
    assert 1 == len(client.segment(photos(1, 8)[0], points=[CLICK]).annotations)


def test_the_configuration_is_one_of_rays() -> None:
    """What ``osamd cluster config`` prints, and the same in deploy/kuberay, fits Ray's own schema."""
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from osamd.cluster.configuration import Plan, serve_config

    file = Path(__file__).resolve().parents[2] / "deploy" / "kuberay" / "rayservice.yaml"
    shipped = yaml.safe_load(yaml.safe_load(file.read_text("utf-8"))["spec"]["serveConfigV2"])
    for config in (shipped, serve_config(Plan(models=("builtin:latest", "sam2:tiny"), segmenters=3, gpus=1))):
        assert "osamd" == ServeDeploySchema.model_validate(config).applications[0].name
