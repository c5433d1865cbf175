"""``osamd batch --on ray`` with Ray itself (``make test-cluster``): killed, stopped, on a cluster that is there."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blob_server import serve_blobs
from data_sets import tree, write_boxes
from PIL import Image, ImageDraw
from serving import clean_environment, free_port
from shelf import Shelf

pytestmark = pytest.mark.cluster

PHOTOS = 300
SHARD_SIZE = 10
WAIT_S = 180.0
LISTENING = "0A"
LOOPBACK = re.compile(r"(0100007F|0{24}0100007F|0{16}FFFF00000100007F):")


@dataclass
class Place:
    """Photos, a quick model, and what one process found.

    Attributes:
        folder: for everything.
        command: without --out.
        env: of every process.
        whole: the files of a run in one process.
    """

    folder: Path
    command: list[str]
    env: dict[str, str]
    whole: dict[str, str]

    def start(self, out: Path, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start ``osamd batch`` in a process group of its own."""
        command = [*self.command, "--out", str(out), *arguments]
        return subprocess.Popen(
            command, env=self.env | (env or {}), stderr=subprocess.PIPE, text=True, start_new_session=True
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Photos with boxes, and a small graph that answers them."""
    folder = tmp_path_factory.mktemp("on-ray")
    (folder / "rows").mkdir()
    with serve_blobs() as web:
        shelf = Shelf(folder / "rows", web)
        shelf.add_local("quick", "efficientsam")
        catalog = shelf.write()
    photos = folder / "photos"
    photos.mkdir()
    for number in range(PHOTOS):
        picture = Image.new("RGB", (48, 32), (number % 256, 255 - number % 256, 90))
        ImageDraw.Draw(picture).ellipse((6 + number % 7, 4, 26, 20), fill=(250, number % 100, 250))
        picture.save(photos / f"photo{number:03d}.png")
    (photos / "broken.jpg").write_text("no image")
    boxes = write_boxes(folder / "boxes.json", photos)
    env = clean_environment(
        {"OSAMD_CACHE": str(folder / "cache"), "OSAMD_CATALOG": str(catalog), "HOME": str(folder), "TMPDIR": "/tmp"}  # noqa: S108 - short: Ray puts sockets there
    )
    command = [sys.executable, "-m", "osamd", "batch", str(photos), "--boxes-from", str(boxes), "--model", "quick"]
    command += ["--threads", "1", "--shard-size", str(SHARD_SIZE), "--format", "coco,yolo,parquet"]
    made = Place(folder, command, env, {})
    with made.start(folder / "whole") as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert 1 == process.returncode, told
    made.whole = tree(folder / "whole")
    return made


def rows(out: Path) -> int:
    """Photos that are done."""
    found = 0
    for file in (out / ".osamd" / "shards").glob("*.jsonl*"):
        # A shard that has just become whole has another name, and is counted the next time.
        with contextlib.suppress(FileNotFoundError):
            found += file.read_bytes().count(b"\n")
    return found


def family(root: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found, grown = {root}, {root}
    while grown:
        grown = {process for process, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


def name_of(process: int) -> str:
    """What a process calls itself; empty if it has ended."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(process) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait while a process runs."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)


def kill_all(root: int) -> None:
    """SIGKILL to a process and all below it, those that are started meanwhile too; returns when all have ended."""
    known = family(root)
    until = time.monotonic() + WAIT_S
    while known:
        for process in known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        known = {child for process in known for child in family(process)}
        known = {process for process in known if is_alive(process)}
        assert time.monotonic() < until, known


def is_alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    with contextlib.suppress(OSError):
        stat = (Path("/proc") / str(process) / "stat").read_text("utf-8", "replace")
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def listeners(processes: set[int]) -> set[str]:
    """Local addresses on which processes listen, as in /proc/net/tcp."""
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):
            links = [os.readlink(link) for link in (Path("/proc") / str(process) / "fd").iterdir()]  # noqa: PTH115
            sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text("utf-8").splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in sockets:
                found.add(fields[1])
    return found


def test_killed_at_a_third_and_two_thirds_it_finds_what_one_process_finds(place: Place) -> None:
    """Every process by SIGKILL, twice; the third run ends with the same bytes. What listens is on loopback."""
    out = place.folder / "out"
    before = 0
    for share in (1, 2):
        with place.start(out, "--on", "ray", "--workers", "2") as process:
            wait_for(lambda share=share: rows(out) >= share * PHOTOS // 3, process)  # type: ignore[misc]
            heard = listeners(family(process.pid))
            kill_all(process.pid)
        assert heard
        assert not [address for address in heard if not LOOPBACK.match(address)]
        assert before < rows(out) < PHOTOS
        before = rows(out)
        assert not (out / "annotations.coco.json").exists()
    with place.start(out, "--on", "ray", "--workers", "2") as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert 1 == process.returncode, told
    assert f"{PHOTOS + 1} photos, 1 failed" in told
    assert place.whole == tree(out)


def test_a_worker_that_is_killed_is_replaced_and_ctrl_c_finishes_the_photos_in_hand(place: Place) -> None:
    """One of two workers by SIGKILL, then SIGINT to all processes of the terminal; then it continues."""
    out = place.folder / "interrupted"
    with place.start(out, "--on", "ray", "--workers", "2") as process:
        wait_for(lambda: rows(out) >= PHOTOS // 10, process)
        workers = [found for found in family(process.pid) if name_of(found).startswith("ray::ShardActor")]
        assert workers
        os.kill(workers[0], signal.SIGKILL)
        assert process.stderr is not None
        assert "starting Ray" in process.stderr.readline()
        assert "a worker died" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read()
    assert 130 == process.returncode, told
    assert "finishing the photos in hand" in told
    assert "to continue where it stopped: osamd batch" in told
    assert rows(out) < PHOTOS
    with place.start(out, "--on", "ray") as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert 1 == process.returncode, told
    assert place.whole == tree(out)


@contextlib.contextmanager
def running_cluster(folder: Path, env: dict[str, str]) -> Iterator[str]:
    """A cluster of one node with a client port; its address."""
    ports = [free_port() for _ in range(2)]
    script = Path(sys.executable).with_name("ray")
    command = [str(script), "start", "--head", "--block", "--include-dashboard=false", "--num-cpus=2"]
    command += [f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--disable-usage-stats"]
    command += ["--object-store-memory=100000000"]
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            until = time.monotonic() + WAIT_S
            while not is_open(ports[1]):
                assert process.poll() is None, (folder / "ray.log").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
            yield f"ray://127.0.0.1:{ports[1]}"
        finally:
            kill_all(process.pid)
            process.wait()


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_cluster_that_is_there_gives_the_same_bytes(place: Place) -> None:
    """By its client port."""
    out = place.folder / "remote"
    env = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    # A busy machine needs longer than half a minute for a client's server.
    patient = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "150"}
    with running_cluster(place.folder, place.env | env | patient) as address:
        with place.start(out, "--on", address, env=env) as process:
            assert process.stderr is not None
            told = process.stderr.read()
        assert (1, True) == (process.returncode, "connecting to Ray" in told), told
    assert place.whole == tree(out)
