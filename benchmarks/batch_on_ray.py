"""``osamd batch --on ray`` with two workers against two processes that share the folder, without Ray.

Each worker and each process has one thread. Both sides have loaded the model before the clock starts; it runs until the
results are written, in one folder for both workers or processes.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from osamd.cli.batch import AT_ONCE
from osamd.cluster.batch_actors import Crew, OnRay
from osamd.dataset.answers import Answers
from osamd.dataset.formats import make_format
from osamd.dataset.local import Machine, local_answers
from osamd.dataset.manifest import Manifest
from osamd.dataset.planning import Prompts, make_plan
from osamd.dataset.run import open_manifest, run
from osamd.dataset.work import InProcess, Workers

WORKERS: Final = 2
MACHINE: Final = Machine(device="cpu", threads=1)
# Small, so that both workers end at about the same time.
SHARD_SIZE: Final = 10
READY: Final = "ready"


def opened(boxes: Path, out: Path) -> Manifest:
    """The manifest of a run over the photos."""
    return open_manifest(out, make_plan([str(boxes)], Prompts(), model="builtin", digest="", shard_size=SHARD_SIZE))


def timed(manifest: Manifest, out: Path, workers: Workers) -> float:
    """When the run was done, on the clock of all processes."""
    formats = {"coco": make_format("coco", out, manifest.header)}
    run(manifest, out, formats=formats, workers=workers, stop=threading.Event())
    return time.monotonic()


def one_process(boxes: Path, out: Path) -> None:
    """Load the model, say so, wait for a line, run, and say when it was done."""
    manifest = opened(boxes, out)
    with local_answers(manifest.header, MACHINE) as answering:

        @contextlib.contextmanager
        def answers() -> Iterator[Answers]:
            yield answering

        print(READY, flush=True)
        sys.stdin.readline()
        print(timed(manifest, out, InProcess(answers, at_once=AT_ONCE)), flush=True)


def wait_until_open(crew: Crew) -> None:
    """Return when all actors have loaded the model, which ``osamd batch`` has no reason to wait for."""
    while crew._asked:  # noqa: SLF001
        for actor, _, done in crew._answers():  # noqa: SLF001
            if done is not None and done.error is not None:
                raise done.error
            crew._idle.extend([] if done is None else [actor])  # noqa: SLF001


def on_ray(boxes: Path, out: Path) -> None:
    """Load the models on Ray, and say how long the run took."""
    manifest = opened(boxes, out)
    ray = OnRay("ray", out, count=WORKERS, machine=MACHINE, at_once=AT_ONCE, tell=lambda _: None, prepare=lambda: None)
    with ray.started(manifest.header) as crew:
        wait_until_open(crew)
        start = time.monotonic()
        print(json.dumps(timed(manifest, out, crew.do) - start), flush=True)


def seconds(name: str, boxes: Path, out: Path) -> float:
    """How long a side takes: ``ray`` or ``processes``."""
    command = [sys.executable, "-m", "benchmarks.batch", "--boxes", str(boxes), "--out", str(out), "--side"]
    if name == "ray":
        ended = subprocess.run([*command, "ray"], check=True, stdout=subprocess.PIPE)  # noqa: S603
        return float(json.loads(ended.stdout))
    with contextlib.ExitStack() as started:
        processes: list[subprocess.Popen[str]] = [
            started.enter_context(
                # In this session, as Ray is: on a busy machine each session gets its share of the cores.
                subprocess.Popen([*command, "process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
            )
            for _ in range(WORKERS)
        ]
        pipes: list[tuple[Any, Any]] = [(process.stdin, process.stdout) for process in processes]
        for _, said in pipes:
            if said.readline().strip() != READY:
                raise RuntimeError("a process did not start")
        start = time.monotonic()
        for asked, _ in pipes:
            asked.write("go\n")
            asked.flush()
        return max(float(said.readline()) for _, said in pipes) - start
