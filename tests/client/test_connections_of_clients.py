"""One client in several processes, event loops and threads."""

import asyncio
import gc
import json
import os
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from puppet import GOOD, Told, puppet
from threaded import serving
from waiting import WAIT_S

from osamd.client import AsyncClient, Client

ROUNDS = 40


class Echo(BaseHTTPRequestHandler):
    """Echoes the requested handle, on connections that stay open."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Any request."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = json.dumps(GOOD | {"image_id": asked["image_id"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name http.server gives it
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    with serving(server) as url:
        yield url


def wrong_answers(client: Client, name: str) -> int:
    """How many answers belonged to another request."""
    asked = [f"{name}-{number}" for number in range(ROUNDS)]
    return sum(client.segment(image_id=handle).image_id != handle for handle in asked)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_processes_do_not_mix_their_answers(echo: str) -> None:
    """A child opens its own connections, and the parent's keep working."""
    with Client(echo) as client:
        assert 0 == wrong_answers(client, "before")
        children = []
        for number in range(2):
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    with warnings.catch_warnings(action="ignore"):
                        code = wrong_answers(client, f"child-{number}")
                finally:
                    os._exit(code)
            children.append(child)
        assert 0 == wrong_answers(client, "parent")
        assert [0, 0] == [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_one_async_client_serves_several_event_loops(echo: str) -> None:
    """One after the other, as with two ``asyncio.run``, and no connection of a closed loop is kept."""
    client = AsyncClient(echo, patience_s=0)

    async def segment(handle: str) -> str:
        return (await client.segment(image_id=handle)).image_id

    assert ["a", "b", "c"] == [asyncio.run(segment(handle)) for handle in "abc"]

    async def close() -> None:
        await client.aclose()

    asyncio.run(close())
    gc.collect()
    assert 1 == len(client._pools)


def test_two_event_loops_at_once(echo: str) -> None:
    """In two threads."""
    client = AsyncClient(echo, patience_s=0)
    both = threading.Barrier(2, timeout=WAIT_S)
    answers: dict[str, str] = {}

    async def segment(name: str) -> None:
        await asyncio.to_thread(both.wait)
        answers[name] = (await client.segment(image_id=name)).image_id
        await asyncio.to_thread(both.wait)
        await client._pool_of(asyncio.get_running_loop()).aclose()

    threads = [threading.Thread(target=lambda name=name: asyncio.run(segment(name))) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"a": "a", "b": "b"} == answers


def test_threads_share_a_client(echo: str) -> None:
    """Each answer goes to the thread that asked."""
    wrong: list[int] = []
    with Client(echo) as client:
        threads = [threading.Thread(target=lambda n=n: wrong.append(wrong_answers(client, f"t{n}"))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [0, 0, 0, 0] == wrong


def test_closed_client_says_so() -> None:
    """Instead of opening connections that nobody closes."""
    with puppet(Told(200, GOOD)) as server:
        client = Client(server.url)
        client.segment(b"x")
        client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            client.segment(b"x")
