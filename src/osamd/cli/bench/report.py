"""A measurement as text: a table, the mean time by stage, and a strip of each phase on a logarithmic axis. Pure."""

import math
from collections.abc import Sequence

from osamd.cli.bench.samples import OTHER, OUTSIDE, Phase, Result, percentile
from osamd.cli.printing import significant, size, table
from osamd.plurals import counted

STRIP_WIDTH = 60
# Symbols for the number of answers in a column, from one to many.
INK = ".:oO@"
THOUSAND = 1000


def text(result: Result) -> str:
    """The whole report, at most 100 columns wide with usual names."""
    parts = [
        f"{result.url}  {result.model}  {result.width} x {result.height} photo",
        table(_latency_rows(result.phases), are_figures=True),
        _throughput(result.phases[-1]),
        "mean milliseconds by stage\n" + table(_stage_rows(result.phases), are_figures=True),
        strips(result.phases),
    ]
    return "\n\n".join(parts)


def _latency_rows(phases: Sequence[Phase]) -> list[list[str]]:
    rows = [["", "n", "median", "p90", "p99", "worst", "sent", "received"]]
    for phase in phases:
        times = [duration(percentile(phase.seconds, share)) for share in (50, 90, 99, 100)]
        sizes = [size(phase.sent_bytes), size(phase.received_bytes)]
        rows.append([phase.name, str(len(phase.answers)), *times, *sizes])
    return rows


def _throughput(phase: Phase) -> str:
    refused = f", {phase.refused} refused" if phase.refused else ""
    clients = counted(phase.clients, "client")
    return f"{clients}: {phase.per_second:.1f} clicks a second over {phase.elapsed_s:.1f} s{refused}"


def _stage_rows(phases: Sequence[Phase]) -> list[list[str]]:
    stages = stage_names(phases)
    rows = [["", *stages]]
    for phase in phases:
        told = phase.stages_ms()
        rows.append([phase.name, *(f"{told[name]:.1f}" if name in told else "" for name in stages)])
    return rows


def stage_names(phases: Sequence[Phase]) -> list[str]:
    """All stages of all phases, followed by ``other`` and ``outside``."""
    names = dict.fromkeys(name for phase in phases for name in phase.stages_ms())
    return [*(name for name in names if name not in {OTHER, OUTSIDE}), OTHER, OUTSIDE]


def strips(phases: Sequence[Phase]) -> str:
    """One line per phase: the distribution of its answers below an axis of round numbers."""
    first, last = decades(phases)
    label = max(len(phase.name) for phase in phases)
    axis = [" "] * (STRIP_WIDTH + 8)
    for exponent in range(first, last + 1):
        for offset, sign in enumerate(duration(10.0**exponent, digits=1)):
            axis[round((exponent - first) / (last - first) * (STRIP_WIDTH - 1)) + offset] = sign
    lines = [" " * label + "  " + "".join(axis).rstrip()]
    for phase in phases:
        columns = [0] * STRIP_WIDTH
        for seconds in phase.seconds:
            columns[round((math.log10(seconds) - first) / (last - first) * (STRIP_WIDTH - 1))] += 1
        drawn = "".join(" " if not count else INK[min(len(INK) - 1, int(math.log2(count)))] for count in columns)
        lines.append(f"{phase.name:<{label}} |{drawn}|")
    return "\n".join(lines)


def decades(phases: Sequence[Phase]) -> tuple[int, int]:
    """The powers of ten, in seconds, that enclose all answers; at least one decade."""
    seconds = [value for phase in phases for value in phase.seconds]
    first = math.floor(math.log10(min(seconds)))
    return first, max(first + 1, math.ceil(math.log10(max(seconds))))


def duration(seconds: float, *, digits: int = 3) -> str:
    """A duration such as ``61.2 ms`` or ``1.97 s``, with this many significant digits."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * THOUSAND, "ms")
    return f"{significant(value, digits)} {unit}"
