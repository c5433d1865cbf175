"""From the start of a process to the first mask, weights on disk, EfficientSAM Ti, 2560 x 1600."""

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bare import timed
from benchmarks.connection import click_body
from benchmarks.photos import click, photo, photo_base64
from benchmarks.rows import Outcome, Row, Target, duration
from benchmarks.servers import EFFICIENTSAM, Server, run_osam, run_osamd
from benchmarks.spread import ratios, spread
from benchmarks.workbench import Workbench, turned

PHOTO = 7000
EXCESS_S, OSAM_SHARE = 1.0, 0.5


@dataclass
class _Starts:
    """Processes that are started, asked once, and stopped; seconds by name."""

    bench: Workbench
    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def osamd(self) -> None:
        """With the same folder each time: what osamd keeps on disk between starts, it may use."""
        settings = {"OSAMD_PRELOAD": EFFICIENTSAM}
        self._start("osamd", run_osamd(self.bench.folder / "cold-osamd", self._paths, settings))

    def osam(self) -> None:
        """The peer."""
        self._start("osam", run_osam(self.bench.folder / "cold-osam", self._paths))

    def bare(self) -> None:
        """Encoder and cut decoder, long since warm."""
        model = self.bench.bare()
        pixels, size = model.prepare(photo(PHOTO))
        encode_s, embedding = timed(model.encode, pixels)
        self.taken["bare"].append(encode_s + timed(model.decode_low, embedding, click(PHOTO), size)[0])

    def apart(self) -> None:
        """The parts of a start, without a server."""
        script = Path(__file__).parent.parent / "cold_parts.py"
        files = [str(path) for path in self.bench.paths[EFFICIENTSAM].values()]
        command = [sys.executable, str(script), str(time.perf_counter()), *files]
        found = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own script
        for name, seconds in json.loads(found.stdout).items():
            self.parts[name].append(seconds)

    @property
    def _paths(self) -> dict[str, dict[str, Path]]:
        return {EFFICIENTSAM: self.bench.paths[EFFICIENTSAM]}

    def _start(self, name: str, running: AbstractContextManager[Server]) -> None:
        body = click_body(EFFICIENTSAM, click(PHOTO), image=photo_base64(PHOTO))
        with running as server:
            self.taken[f"{name}, until it listens"].append(time.perf_counter() - server.started_at)
            with server.connect() as connection:
                reply = connection.post("/api/generate", body)
            self.taken[name].append(time.perf_counter() - server.started_at)
            for stage, seconds in reply.stages_s.items():
                self.parts[f"{name}, stage {stage}"].append(seconds)


def measure(bench: Workbench) -> Outcome:
    """Start each server anew, ask as soon as it listens, and take off what the bare sessions need."""
    starts = _Starts(bench)
    steps = [starts.osamd, starts.bare, starts.osam, starts.apart]
    for number in range(-1, bench.rounds(quick=2, full=8)):
        for step in turned(steps, number):
            step()
        if number < 0:
            starts.taken.clear()
            starts.parts.clear()
    return _outcome(starts.taken, starts.parts)


def _outcome(taken: dict[str, list[float]], parts: dict[str, list[float]]) -> Outcome:
    excess = {
        name: [whole - engine for whole, engine in zip(taken[name], taken["bare"], strict=True)]
        for name in ("osamd", "osam")
    }
    medians = {name: duration(statistics.median(values)) for name, values in taken.items()}
    rows = [
        Row(
            "process start to first mask, minus bare encoder + decoder",
            spread(excess["osamd"]),
            "s",
            target=Target("at most", EXCESS_S),
            amounts={name: medians[name] for name in ("osamd", "osamd, until it listens", "bare")},
        ),
        Row(
            "the same",
            ratios(excess["osamd"], excess["osam"]),
            "x",
            "of osam's",
            Target("at most", OSAM_SHARE),
            {"osam": medians["osam"], "osam's excess": duration(statistics.median(excess["osam"]))},
        ),
    ]
    told = ", ".join(f"{name} {duration(statistics.median(values))}" for name, values in parts.items())
    return Outcome(rows, {**taken, "parts": dict(parts)}, [f"Cold start in parts, ONNX Runtime's defaults: {told}."])
