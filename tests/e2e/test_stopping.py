"""How a server stops, what it does with what hangs, and that it rests when nobody asks."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
from asking import GENERATE
from serving import KEY, RunningServer, gated_command, run_server, wait_until_answering
from waiting import WAIT_S

ROOT = Path(__file__).resolve().parents[2]
UVICORN = (sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT), "main:app", "--port", "{port}")
TICKS = os.sysconf("SC_CLK_TCK")


class Asking:
    """A request under way in a thread of its own."""

    def __init__(self, running: RunningServer, image: bytes) -> None:
        self._running = running
        self._image = image
        self.answer: httpx2.Response | None = None
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with self._running.client() as client, contextlib.suppress(httpx2.TransportError):
            self.answer = client.post(GENERATE, content=self._image)

    def ended(self) -> httpx2.Response | None:
        """The answer, waited for; None when the connection broke."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.answer


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when something holds."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def lane(running: RunningServer, name: str, what: str) -> float:
    """A gauge of a lane, as an admin sees it."""
    with running.client() as client:
        for line in client.get("/metrics").text.splitlines():
            if line.startswith(f'osamd_lane_{what}{{lane="{name}"}}'):
                return float(line.rpartition(" ")[2])
    raise AssertionError("no such gauge")


@contextlib.contextmanager
def held(tmp_path: Path, photo: bytes, **env: str) -> Iterator[tuple[RunningServer, Path, list[Asking]]]:
    """A server in which one encode runs and one waits: with two that wait, a second one would run."""
    gate = tmp_path / "gate"
    with run_server(cache=tmp_path, env={"API_KEY": KEY} | env, command=gated_command("encode", gate)) as running:
        asking = [Asking(running, photo)]
        wait_until(lambda: lane(running, "encode", "running") == 1)
        asking.append(Asking(running, photo + b"\0"))
        wait_until(lambda: lane(running, "encode", "waiting") == 1)
        try:
            yield running, gate, asking
        finally:
            gate.touch()
            running.process.kill()
            for one in asking:
                one.ended()


def test_sigterm_refuses_what_waits_and_finishes_what_runs(tmp_path: Path, photo: bytes) -> None:
    """Who waits hears 503 at once, while the encode that runs is still held; its caller gets the masks; exit code 0."""
    with held(tmp_path, photo) as (running, gate, asking):
        running.process.terminate()
        refused = asking[1].ended()
        assert refused is not None
        assert (503, "shutting_down") == (refused.status_code, refused.json()["code"])
        assert "Retry-After" in refused.headers
        assert asking[0].answer is None
        gate.touch()
        answered = asking[0].ended()
        assert answered is not None
        assert 200 == answered.status_code
        assert 0 == running.process.wait(WAIT_S)


def test_a_second_signal_ends_at_once(tmp_path: Path, photo: bytes) -> None:
    """While the first waits for what runs, the second does not."""
    with held(tmp_path, photo) as (running, _, asking):
        running.process.send_signal(signal.SIGINT)
        asking[1].ended()
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert 128 + signal.SIGINT == running.process.wait(WAIT_S)


def test_what_does_not_end_is_left_behind(tmp_path: Path, photo: bytes) -> None:
    """When the grace time is over the callers are told, and the process ends with 0, whatever still runs."""
    with held(tmp_path, photo, OSAMD_GRACE_S="1") as (running, _, asking):
        running.process.terminate()
        assert 0 == running.process.wait(WAIT_S)
        told = asking[0].ended()
        assert told is not None
        assert (503, "shutting_down") == (told.status_code, told.json()["code"])
    assert "Traceback" not in running.log_text()


def test_under_uvicorn_too_what_waits_for_a_model_is_told(tmp_path: Path) -> None:
    """``uvicorn main:app`` hears a stop as early, and answers what it had begun; the code is uvicorn's own."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=UVICORN) as running:
        running.process.terminate()
        assert running.process.wait(WAIT_S) in {0, -signal.SIGTERM}
    assert "Traceback" not in running.log_text()


def test_workers_start_answer_and_stop(tmp_path: Path, photo: bytes) -> None:
    """``--workers 2`` gives two processes that answer alike; both are gone when their supervisor is."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=(*UVICORN, "--workers", "2")) as running:
        wait_until(lambda: running.log_text().count("loaded builtin:latest") == 2)
        for _ in range(4):
            # A new connection each time, so that both are asked sooner or later.
            with running.client() as client:
                assert 200 == client.post(GENERATE, content=photo).status_code
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        running.process.terminate()
        running.process.wait(WAIT_S)
        wait_until(lambda: not any(is_running(int(child)) for child in children))
    assert len(children) >= 2
    assert "Traceback" not in running.log_text()


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_hung_inference_is_contained(tmp_path: Path, photo: bytes) -> None:
    """Its request fails, a new worker serves the next; after too many the process says that only a new one helps."""
    gate = tmp_path / "gate"
    env = {"API_KEY": KEY, "OSAMD_HANG_S": "1"}
    with (
        run_server(cache=tmp_path, env=env, command=gated_command("encode", gate)) as running,
        running.client() as client,
    ):
        for number in range(3):
            assert 200 == client.get("/health").status_code
            failed = client.post(GENERATE, content=photo + bytes([number]))
            assert (500, "hung") == (failed.status_code, failed.json()["code"])
            assert {"encode": number + 1} == client.get("/ready").json()["hung"]
        stuck = client.get("/ready")
        assert (503, "stuck") == (stuck.status_code, stuck.json()["status"])
        assert 503 == client.get("/health").status_code
        assert 3.0 == lane(running, "encode", "hung")
        # They come back after all, and so does the server.
        gate.touch()
        wait_until_answering(running, "/ready")
        assert 200 == client.get("/health").status_code
        # A busy machine may take longer than the second that is allowed here.
        wait_until(lambda: client.post(GENERATE, content=photo).status_code == 200)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def test_an_idle_server_rests(tmp_path: Path, photo: bytes) -> None:
    """In two seconds without a request it uses less than two hundredths of one processor."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY}) as running:
        with running.client() as client:
            assert 200 == client.post(GENERATE, content=photo).status_code
        # What a start or a request has left to do is done before, however long a busy machine takes for it.
        until, before = time.monotonic() + WAIT_S, -1.0
        while (now := cpu_seconds(running.process.pid)) != before:
            assert time.monotonic() < until
            before = now
            time.sleep(1.0)
        time.sleep(2.0)
        assert cpu_seconds(running.process.pid) - before <= 0.04
