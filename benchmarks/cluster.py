"""Run a cluster on this machine; report how much it adds to a click, and whether clicks find their embeddings.

.venv-cluster/bin/python benchmarks/cluster.py [--clicks 200] [--photos 40] [--image FILE]

With 2 and with 3 Segmenters, in memory alone: photos are embedded, then each is clicked by handle; 410 means that the
wrong Segmenter was asked. Then clicks on one photo, by turns to a plain osamd and to the cluster, and the same with
requests that fail at once, which shows the overhead alone. Last, with a shared folder of embeddings, a Segmenter is
killed while four clients click without retries; what fails is asked again with them. One thread for each inference
everywhere. Exits with 1 if a target is missed.
"""

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cluster_process import SEGMENTER, RunningCluster, run_cluster  # noqa: E402
from serving import run_server  # noqa: E402

from benchmarks.replicas import CLICK, CLIENTS, KEY, LOST, OK, asked_for, asking, click, differ  # noqa: E402
from osamd.client import Client, Segmentation  # noqa: E402
from osamd.engine.image_ids import MODEL_DIGITS  # noqa: E402
from osamd.errors import OsamdError  # noqa: E402

ADDED_MS: Final = 5.0
PATIENCE_S: Final = 120.0


def hits(cluster: RunningCluster, segmenters: int, pictures: Sequence[bytes]) -> float:
    """The share of first clicks that find their embedding in memory."""
    cluster.deploy(segmenters)
    with (
        Client(cluster.url, api_key=KEY) as client,
        asking(cluster.url) as http,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        handles = list(pool.map(lambda picture: client.embed(picture).image_id, pictures))
        statuses = list(pool.map(lambda image_id: click(http, image_id), handles))
    return statuses.count(OK) / len(statuses)


def added(cluster: RunningCluster, picture: bytes, clicks: int) -> dict[str, list[float]]:
    """Medians in milliseconds of a plain osamd and of the cluster, of clicks and of requests for an unknown handle."""
    cluster.deploy(2)
    env = {"API_KEY": KEY, "OSAMD_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder, run_server(cache=Path(folder), env=env) as plain:
        times: dict[tuple[str, str], list[float]] = {}
        with asking(plain.url) as direct, asking(cluster.url) as through:
            handles = []
            for url in (plain.url, cluster.url):
                with Client(url, api_key=KEY) as client:
                    handles.append(client.embed(picture).image_id)
            # Same photo, same model, same owner: the same handle, so that the cluster's is known to be its own.
            (image_id,) = set(handles)
            # What names the model stays, so that a Segmenter is asked.
            start, end = image_id[:12], image_id[-MODEL_DIGITS:]
            kinds = {"click": image_id, "unknown": start + "0" * (len(image_id) - 12 - MODEL_DIGITS) + end}
            for number in range(-20, clicks):
                for kind, handle in kinds.items():
                    for name, http in (("plain", direct), ("cluster", through)):
                        begun = time.perf_counter()
                        status = click(http, handle)
                        if (status == OK) != (kind == "click"):
                            raise RuntimeError(f"{name} answered {status} to {kind}")
                        if number >= 0:
                            times.setdefault((kind, name), []).append(time.perf_counter() - begun)
    return {kind: [1000 * median(times[kind, name]) for name in ("plain", "cluster")] for kind in kinds}


def killed(cluster: RunningCluster, pictures: Sequence[bytes], clicks: int) -> dict[str, Any]:
    """What clients see while one of two Segmenters is killed: errors without retries, wrong masks, what stays lost."""
    cluster.deploy(2, env={"OSAMD_EMBEDDING_DISK_BYTES": "2000000000"})
    folder = cluster.log.parent
    with (
        Client(cluster.url, api_key=KEY, patience_s=PATIENCE_S) as patient,
        Client(cluster.url, api_key=KEY, patience_s=0.0) as hasty,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        before = list(pool.map(lambda picture: patient.segment(picture, points=[CLICK]), pictures))
        while len(list(folder.rglob("img_*.npz"))) < len(pictures):
            time.sleep(0.05)

        def ask(expected: Segmentation) -> str:
            try:
                found = hasty.segment(image_id=expected.image_id, points=[CLICK])
            except OsamdError as error:
                try:
                    found = patient.segment(image_id=expected.image_id, points=[CLICK])
                except OsamdError:
                    return f"lost, {error.code}"
                return f"healed, {error.code}" if not differ(expected, found) else "wrong"
            return "wrong" if differ(expected, found) else "right"

        asked = [pool.submit(ask, before[number % len(before)]) for number in range(clicks)]
        asked[clicks // 4].result()
        cluster.kill(f"ServeReplica:osamd:{SEGMENTER}")
        return dict(Counter(future.result() for future in asked))


def main() -> int:
    """Measure, print, and say whether the targets are met."""
    clicks, pictures = asked_for(__doc__)
    folder = tempfile.mkdtemp()
    with run_cluster(Path(folder), API_KEY=KEY) as cluster:
        way = added(cluster, pictures[0], clicks)
        found = {count: hits(cluster, count, pictures) for count in (2, 3)}
        death = killed(cluster, pictures, clicks)
    refused = sum(count for name, count in death.items() if name.startswith(("healed", "lost")))
    rounded = {kind: [round(value, 2) for value in values] for kind, values in way.items()}
    print(json.dumps({"hits": found, "plain_and_cluster_ms": rounded, "killed": death, "load": os.getloadavg()}))
    plain_ms, cluster_ms = way["click"]
    kept = {
        "every first click finds its embedding": set(found.values()) == {1.0},
        f"at most {ADDED_MS:g} ms more": cluster_ms - plain_ms <= ADDED_MS,
        "no wrong mask while a Segmenter is killed": "wrong" not in death,
        f"at most {LOST:.0%} of the clicks refused while a Segmenter is killed": refused / clicks <= LOST,
        "all of them healed by the client": not any(name.startswith("lost") for name in death),
    }
    for name, holds in kept.items():
        print("met   " if holds else "MISSED", name)
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
