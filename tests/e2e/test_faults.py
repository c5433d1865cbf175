"""Faults from outside: a process killed, a cache nobody can write, blobs that rot, clocks that jump, no more files.

A full disk is in ``test_partials.py`` and ``test_graphs.py``, a client that stops reading in ``test_slow_clients.py``,
computations that hang in ``test_stopping.py``, memory that runs out in ``test_workers.py``.
"""

import contextlib
import shlex
import socket
import sys
import threading
import time
from pathlib import Path

import httpx2
import onnx
import pytest
from asking import GENERATE
from engines import embed, picture, request, run, segment
from fake_model import click
from serving import KEY, run_server
from shelf import run_library
from waiting import WAIT_S

from osamd.engine import Engine

POINT = {"point": "225,150"}
# Enough for a server at rest and its model; far too little for the connections below.
DESCRIPTORS = 48
YEAR_S = 365 * 86_400.0


def flip_a_weight(graph: Path) -> None:
    """Change one bit in the middle of a graph's largest weight, which leaves a graph that loads."""
    content = bytearray(graph.read_bytes())
    largest = max((bytes(weight.raw_data) for weight in onnx.load(graph).graph.initializer), key=len)
    content[content.index(largest) + len(largest) // 2] ^= 0x20
    graph.write_bytes(content)


def test_a_process_killed_under_load_starts_again(tmp_path: Path, photo: bytes) -> None:
    """SIGKILL in the midst of requests leaves nothing that keeps the next process from answering."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY}) as running:
        begun = threading.Event()

        def ask() -> None:
            with running.client() as client, contextlib.suppress(httpx2.TransportError):
                while True:
                    client.post(GENERATE, content=photo, params=POINT)
                    begun.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert begun.wait(WAIT_S)
        running.process.kill()
        for thread in threads:
            thread.join(WAIT_S)
    with run_server(cache=tmp_path, env={"API_KEY": KEY}) as again, again.client() as client:
        assert 200 == client.post(GENERATE, content=photo, params=POINT).status_code


def test_a_cache_that_cannot_be_written_costs_only_what_it_would_hold(tmp_path: Path, photo: bytes) -> None:
    """The built-in model answers; a model that would have to be pulled is refused with a documented code."""
    # Nobody can make a folder there, root neither.
    env = {"OSAMD_CACHE": "/proc/osamd-cache"}
    with run_library(tmp_path, fresh=1, env=env) as library, library.server.client() as client:
        assert 200 == client.post(GENERATE, content=photo, params=POINT).status_code
        refused = client.post(GENERATE, content=photo, params=POINT | {"model": next(library.fresh).name})
        assert (503, "storage_failed") == (refused.status_code, refused.json()["code"])
        assert 200 == client.get("/ready").status_code


def test_a_blob_that_rots_after_it_was_loaded_is_not_looked_at(tmp_path: Path, photo: bytes) -> None:
    """What is in memory goes on answering, alike; once it has to be loaded again it is refused, and a pull mends it."""
    with run_library(tmp_path, fresh=1) as library, library.server.client() as client:
        model = next(library.fresh)
        asked = POINT | {"model": model.name, "mask_format": "rle"}
        first = client.post(GENERATE, content=photo, params=asked)
        assert 200 == first.status_code
        for place in model.places(library.cache):
            flip_a_weight(place)
        second = client.post(GENERATE, content=photo + b"!", params=asked)
        assert 200 == second.status_code
        assert [one["mask"] for one in first.json()["annotations"]] == [
            one["mask"] for one in second.json()["annotations"]
        ]
        assert 200 == client.post(GENERATE, content=photo, params=asked | {"keep_alive": "0"}).status_code
        refused = client.post(GENERATE, content=photo, params=asked)
        assert (503, "blob_digest_mismatch") == (refused.status_code, refused.json()["code"])
        assert 200 == client.post("/api/pull", json={"model": model.name, "stream": False}).status_code
        third = client.post(GENERATE, content=photo + b"?", params=asked)
        assert first.json()["annotations"][0]["mask"] == third.json()["annotations"][0]["mask"]


def test_a_corrupted_blob_is_detected_before_it_is_loaded(tmp_path: Path, photo: bytes) -> None:
    """One flipped bit is enough: the model is refused with a documented code, others work, and a pull repairs it."""
    with run_library(tmp_path, fresh=1) as library, library.server.client() as client:
        model = next(library.fresh)
        assert 200 == client.post("/api/pull", json={"model": model.name, "stream": False}).status_code
        for place in model.places(library.cache):
            flip_a_weight(place)
        answer = client.post(GENERATE, content=photo, params=POINT | {"model": model.name})
        assert (503, "blob_digest_mismatch") == (answer.status_code, answer.json()["code"])
        assert 200 == client.post(GENERATE, content=photo, params=POINT).status_code
        assert 200 == client.post("/api/pull", json={"model": model.name, "stream": False}).status_code
        assert 200 == client.post(GENERATE, content=photo, params=POINT | {"model": model.name}).status_code


@pytest.mark.parametrize("jump_s", [-YEAR_S, YEAR_S])
def test_a_clock_that_jumps_changes_no_answer(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """What is in memory expires by a clock that does not jump; only what is kept on the disk goes by the wall's.

    A process that starts again knows no other, so the disk tier's files may go too early or too late after a jump.
    """
    real = time.time

    async def main(engine: Engine) -> str:
        handle = await embed(engine, picture())
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)
        result = await segment(engine, request(handle.image_id, click(5, 5)))
        assert result.cache_hit
        return result.image.image_id

    image_id = run(main, keep_alive=300.0)
    assert image_id.startswith("img_")


def test_a_server_without_a_free_descriptor_recovers(tmp_path: Path, photo: bytes) -> None:
    """While connections take all of them, who is connected is served; when they go, everybody is."""
    serve = f"ulimit -n {DESCRIPTORS}; exec {shlex.quote(sys.executable)} -m osamd serve"
    with (
        run_server(cache=tmp_path, env={"API_KEY": KEY}, command=("sh", "-c", serve)) as running,
        running.client() as early,
    ):
        assert 200 == early.post(GENERATE, content=photo, params=POINT).status_code
        address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
        idle = [socket.create_connection(address, timeout=10) for _ in range(2 * DESCRIPTORS)]
        running.log_line("Too many open files")
        assert 200 == early.post(GENERATE, content=photo, params=POINT).status_code
        for connection in idle:
            connection.close()
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            with running.client(timeout=2.0) as late, contextlib.suppress(httpx2.TransportError):
                if late.get("/ready").status_code == 200:
                    break
        with running.client() as late:
            assert 200 == late.post(GENERATE, content=photo, params=POINT).status_code
