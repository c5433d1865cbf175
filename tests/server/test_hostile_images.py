"""A server that gets images made to hold it up."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from asking import GENERATE
from hostile_images import ABSURD
from pictures import encoded
from PIL import Image
from serving import KEY, RunningServer, run_server


def processes_of(server: RunningServer) -> list[int]:
    """The processes in which it decodes images."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=False
    )
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.parametrize("name", ["95 000 scans", "empty chunks", "run lengths", "a million strips"])
def test_absurd_images_are_refused(client: httpx2.Client, name: str) -> None:
    """With the limit that they exceed."""
    make, limit = ABSURD[name]

    problem = client.post(GENERATE, content=make()).json()

    assert (422, "invalid_image", "image") == (problem["status"], problem["code"], problem["field"])
    assert limit in problem["detail"]


def test_slow_and_crashing_images_are_contained(tmp_path: Path, photo: bytes) -> None:
    """No thread is lost, others are answered meanwhile, and stopping the server leaves no process behind."""
    # Some kilobytes, and a second of decoding where there was no limit.
    data = encoded(Image.new("RGB", (4000, 3900)))
    with (
        run_server(cache=tmp_path, env={"API_KEY": KEY, "OSAMD_DECODE_S": "0.1"}) as running,
        running.client() as client,
    ):
        assert 200 == client.post(GENERATE, content=photo).status_code
        with ThreadPoolExecutor(4) as threads:
            attacks = [threads.submit(client.post, GENERATE, content=data + bytes([number])) for number in range(8)]
            assert 200 == client.post(GENERATE, content=photo).status_code
            assert 200 == client.post(GENERATE, content=photo + b"\0").status_code
            for attack in attacks:
                problem = attack.result().json()
                assert (422, "invalid_image", "image") == (problem["status"], problem["code"], problem["field"])
                assert "limit of 0.1 s of CPU time" in problem["detail"]

        before = processes_of(running)
        for child in before:
            os.kill(child, signal.SIGSEGV)
        assert 200 == client.post(GENERATE, content=photo + b"\1").status_code
        after = processes_of(running)
        assert after
        assert not set(after) & set(before)
        assert 200 == client.get("/ready").status_code
    for child in after:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
