"""The server as a process: each way to start it, where its settings come from, and how it stops."""

import contextlib
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
from asking import GENERATE
from pictures import encoded
from PIL import Image
from serving import KEY, RunningServer, clean_environment, gated_command, run_server, wait_until_reached
from waiting import WAIT_S

ROOT = Path(__file__).resolve().parents[2]
OSAMD = str(Path(sys.executable).with_name("osamd"))
# For tests that need no mask.
WITHOUT_MODEL = {"OSAMD_PRELOAD": "none"}
FILE_KEY, REAL_KEY = "key-of-the-file-K3v", "key-of-the-environment"


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    """A copy of main.py with a .env beside it."""
    folder = tmp_path / "deployment"
    folder.mkdir()
    shutil.copy(ROOT / "main.py", folder)
    (folder / ".env").write_text(f"API_KEY={FILE_KEY}\nOSAMD_MASK_LAYOUT=crop\n")
    return folder


def status_with(running: RunningServer, key: str) -> int:
    """What ``GET /`` answers to this key."""
    with running.client(headers={"X-API-Key": key}) as client:
        return client.get("/").status_code


def started(deployment: Path) -> list[Sequence[str]]:
    """The ways to start the deployment."""
    return [
        (sys.executable, str(deployment / "main.py")),
        (sys.executable, "-m", "uvicorn", "--app-dir", str(deployment), "main:app", "--port", "{port}"),
    ]


@pytest.mark.parametrize("way", [0, 1], ids=["python main.py", "uvicorn main:app"])
def test_env_file_beside_main_is_read(deployment: Path, tmp_path: Path, way: int) -> None:
    """The ``.env`` beside main.py is read, wherever the process was started."""
    command = started(deployment)[way]
    with run_server(cache=tmp_path, env=WITHOUT_MODEL, command=command, cwd=tmp_path) as running:
        assert status_with(running, FILE_KEY) == 200
        assert status_with(running, "wrong") == 403


@pytest.mark.parametrize("way", [0, 1], ids=["python main.py", "uvicorn main:app"])
def test_real_environment_wins_over_env_file(deployment: Path, tmp_path: Path, photo: bytes, way: int) -> None:
    """A real variable beats the file; the file's others still count."""
    command = started(deployment)[way]
    with run_server(cache=tmp_path, env={"API_KEY": REAL_KEY}, command=command) as running:
        assert status_with(running, REAL_KEY) == 200
        assert status_with(running, FILE_KEY) == 403
        with running.client() as client:
            box = client.post(GENERATE, content=photo, params={"mask_format": "rle"}).json()["annotations"][0]
    assert box["mask"]["size"] != [300, 451]


def test_main_works_without_env_file(deployment: Path, tmp_path: Path) -> None:
    """No ``.env`` is needed."""
    (deployment / ".env").unlink()
    env = {"API_KEY": KEY} | WITHOUT_MODEL
    with run_server(cache=tmp_path, env=env, command=started(deployment)[0]) as running:
        assert status_with(running, KEY) == 200


def test_example_env_file_works(deployment: Path, tmp_path: Path) -> None:
    """``.env.example`` copied as it is starts a development server with its key."""
    shutil.copy(ROOT / ".env.example", deployment / ".env")
    with run_server(cache=tmp_path, env=WITHOUT_MODEL, command=started(deployment)[0]) as running:
        assert status_with(running, "your_local_key_here") == 200
        assert status_with(running, "wrong") == 403


def test_serve_reads_env_file_only_when_told(deployment: Path, tmp_path: Path) -> None:
    """``osamd serve`` ignores a ``.env`` in the working directory, and reads it by ``--env-file``."""
    command = (sys.executable, "-m", "osamd", "serve")
    with run_server(cache=tmp_path, env=WITHOUT_MODEL, command=command, cwd=deployment) as ignoring:
        assert status_with(ignoring, FILE_KEY) == 500
    told = (*command, "--env-file", str(deployment / ".env"))
    with run_server(cache=tmp_path, env=WITHOUT_MODEL, command=told, cwd=tmp_path) as reading:
        assert status_with(reading, FILE_KEY) == 200


def test_flags_win_over_environment(tmp_path: Path, photo: bytes) -> None:
    """Each flag beats its variable."""
    env = {
        "API_KEY": KEY,
        "PORT": "1",
        "OSAMD_MASK_LAYOUT": "full",
        "OSAMD_DOCS": "on",
        "OSAMD_PRELOAD": "sam:100m",
        "OSAMD_LOG_LEVEL": "error",
    }
    flags = ["--host", "127.0.0.1", "--port", "{port}", "--mask-layout", "crop", "--docs", "off", "--preload", "none"]
    flags += ["--log-level", "info", "--threads", "1", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    command = (sys.executable, "-m", "osamd", "serve", *flags)
    with run_server(cache=tmp_path, env=env, command=command) as running, running.client() as client:
        reply = client.post(GENERATE, content=photo, params={"mask_format": "rle"}).json()
        assert client.get("/docs").status_code == 404
        assert running.log_line("POST", GENERATE)
    assert reply["annotations"][0]["mask"]["size"] != [300, 451]


def test_bad_settings_stop_the_start_by_name(tmp_path: Path) -> None:
    """A setting that cannot be ends the start with its variable's name and the exit code of settings."""
    env = clean_environment({"OSAMD_CACHE": str(tmp_path), "PORT": "many", "OSAMD_DEVICE": "tpu", "API_KEY": KEY})
    ended = subprocess.run([OSAMD, "serve"], env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)

    assert ended.returncode == 6
    assert "PORT" in ended.stderr
    assert "OSAMD_DEVICE" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert KEY not in ended.stderr


def test_missing_device_is_never_replaced(tmp_path: Path, photo: bytes) -> None:
    """A GPU that was asked for and is not there keeps the server from being ready: no silent CPU."""
    env = {"API_KEY": KEY, "OSAMD_DEVICE": "cuda"}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running, running.client() as client:
        answer = client.post(GENERATE, content=photo)
        if answer.status_code == 200:
            assert answer.headers["X-Osamd-Device"] == "cuda"
            pytest.skip("this machine has a GPU")
        assert answer.status_code >= 500
        assert client.get("/ready").status_code == 503
        assert "OSAMD_DEVICE" in running.log_text()


# --- stopping -------------------------------------------------------------------------------------------------------


def wait_until_refusing(running: RunningServer) -> None:
    """Return when nobody listens any more."""
    host, port = running.url.removeprefix("http://").split(":")
    until = time.monotonic() + WAIT_S
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            socket.create_connection((host, int(port)), timeout=WAIT_S).close()
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.mark.parametrize("command", ["serve", "main.py"])
def test_sigterm_answers_the_request_in_flight(tmp_path: Path, deployment: Path, photo: bytes, command: str) -> None:
    """A request that had begun when SIGTERM came is answered in full; then the process ends with 0."""
    start = (OSAMD, "serve") if command == "serve" else started(deployment)[0]
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=start) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
            head = (
                f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEY}\r\nContent-Length: {len(photo)}\r\n\r\n"
            )
            connection.sendall(head.encode() + photo[:1000])
            # The answer to a request that came later shows that the server has seen the one that is half sent.
            assert status_with(running, KEY) == 200
            running.process.terminate()
            wait_until_refusing(running)
            assert running.process.poll() is None
            connection.sendall(photo[1000:])
            answer = connection.makefile("rb").read()
        assert running.process.wait(WAIT_S) == 0

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"annotations"' in answer


def test_sigterm_waits_for_inference(tmp_path: Path, photo: bytes) -> None:
    """An encode that runs when SIGTERM comes is finished, and its caller gets the masks."""
    gate = tmp_path / "gate"
    with run_server(cache=tmp_path, env={"API_KEY": KEY}, command=gated_command("encode", gate)) as running:
        asking = Asking(running, photo)
        wait_until_reached(gate)
        running.process.terminate()
        wait_until_refusing(running)
        gate.touch()
        assert asking.answer().status_code == 200
        assert running.process.wait(WAIT_S) == 0


def test_sigint_ends_quietly(tmp_path: Path) -> None:
    """Ctrl-C ends with 0 and no traceback."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY}) as running:
        running.process.send_signal(2)
        assert running.process.wait(WAIT_S) == 0
    assert "Traceback" not in running.log_text()


# --- the event loop -------------------------------------------------------------------------------------------------


class Asking:
    """A request under way in a thread of its own."""

    def __init__(self, running: RunningServer, image: bytes) -> None:
        self._running = running
        self._image = image
        self._answers: list[httpx2.Response] = []
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with self._running.client() as client:
            self._answers.append(client.post(GENERATE, content=self._image))

    def is_waiting_for_inference(self) -> bool:
        """Whether, once the server had time to read it, the request is still without an answer."""
        for _ in range(5):
            assert status_with(self._running, KEY) == 200
        self._thread.join(0.2)
        return self._thread.is_alive()

    def answer(self) -> httpx2.Response:
        """The answer, waited for."""
        self._thread.join(WAIT_S)
        (answer,) = self._answers
        return answer


def test_health_answers_while_an_encode_runs(tmp_path: Path, photo: bytes) -> None:
    """While encodes are held, probes, known images and refusals are answered; the event loop is free."""
    gate = tmp_path / "gate"
    gate.touch()
    with (
        run_server(cache=tmp_path, env={"API_KEY": KEY}, command=gated_command("encode", gate)) as running,
        running.client() as client,
    ):
        image_id = client.post("/api/embed", content=photo).json()["image_id"]
        gate.unlink()
        asking = [Asking(running, photo + bytes([number])) for number in range(3)]
        wait_until_reached(gate)
        assert all(one.is_waiting_for_inference() for one in asking)
        assert client.get("/health").status_code == 200
        # A click on a known image does not wait behind somebody's encode.
        assert client.post(GENERATE, json={"image_id": image_id}).status_code == 200
        assert client.post(GENERATE, content=b"").status_code == 422
        assert all(one.is_waiting_for_inference() for one in asking)
        gate.touch()
        assert [200] * 3 == [one.answer().status_code for one in asking]


def test_health_answers_while_a_decode_runs(tmp_path: Path, photo: bytes) -> None:
    """While decodes are held, probes and embedding are answered; the event loop is free."""
    gate = tmp_path / "gate"
    with (
        run_server(cache=tmp_path, env={"API_KEY": KEY}, command=gated_command("decode", gate)) as running,
        running.client() as client,
    ):
        asking = Asking(running, photo)
        # Opened also when an assertion fails, so that the thread and the server can end.
        try:
            wait_until_reached(gate)
            assert client.get("/health").status_code == 200
            assert client.post("/api/embed", content=photo).status_code == 200
            assert asking.is_waiting_for_inference()
        finally:
            gate.touch()
        assert asking.answer().status_code == 200


def test_health_answers_before_a_large_photo(server: RunningServer) -> None:
    """With the real model at work on a large photo, probes sent after it are answered before it."""
    large = encoded(Image.effect_noise((6000, 6000), 60).convert("RGB"), "JPEG", quality=60)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        head = f"POST {GENERATE}?point=9,9 HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEY}\r\nContent-Length: {len(large)}"
        connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode() + large)
        with server.client() as client:
            for _ in range(10):
                assert client.get("/health").status_code == 200
        is_answered = bool(select.select([connection], [], [], 0)[0])
        answer = connection.makefile("rb").read()

    assert not is_answered
    assert answer.startswith(b"HTTP/1.1 200 ")
