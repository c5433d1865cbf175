"""A measurement as SVG: each answer as a dot, the mean time by stage, latency by percentile, throughput. Pure."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from osamd.cli.bench.curves import INK, LINE, height_of, label, panel
from osamd.cli.bench.curves import WIDTH as WIDTH_OF_A_PANEL
from osamd.cli.bench.report import decades, duration, stage_names
from osamd.cli.bench.samples import OTHER, OUTSIDE, Phase, Result, percentile
from osamd.plurals import counted

LEFT, WIDTH, RIGHT, ROW, TOP = 230, 560, 90, 34, 70
# Colours for most kinds of colour vision (Okabe and Ito, 2008), and greys for time outside of stages.
COLORS = ("#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#d55e00", "#0072b2", "#e69f00", "#000000")
OTHERS = {OTHER: "#666666", OUTSIDE: "#bbbbbb"}
PAPER = "#ffffff"


def svg(result: Result) -> str:
    """The whole chart."""
    phases = result.phases
    below = TOP + ROW * len(phases) + 60
    curves = below + ROW * len(phases) + 70
    height = curves + height_of(len(phases)) + 20
    full_width = LEFT + WIDTH + RIGHT
    title = f"{result.model} at {result.url}, {result.width} x {result.height}, {result.at}"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full_width} {height}" width="{full_width}"'
        f' height="{height}" font-family="sans-serif" font-size="13" fill="{INK}">'
    )
    return "\n".join(
        [
            opening,
            f"<title>{escape(title)}</title>",
            f'<rect width="{full_width}" height="{height}" fill="{PAPER}"/>',
            label(16, 24, title, size=15),
            *_dots(phases),
            *_bars(phases, below),
            *_curves(phases, curves),
            "</svg>",
            "",
        ]
    )


def _dots(phases: Sequence[Phase]) -> list[str]:
    first, last = decades(phases)

    def x(seconds: float) -> float:
        return LEFT + (math.log10(seconds) - first) / (last - first) * WIDTH

    parts = [label(16, TOP - 14, "every answer")]
    bottom = TOP + ROW * len(phases)
    for exponent in range(first, last + 1):
        at = x(10.0**exponent)
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="{LINE}"/>')
        parts.append(label(at, TOP - 14, duration(10.0**exponent, digits=1), anchor="middle"))
    for number, phase in enumerate(phases):
        y = TOP + ROW * number + ROW / 2
        middle = percentile(phase.seconds, 50)
        parts.append(label(LEFT - 12, y + 4, phase.name, anchor="end"))
        parts += [
            f'<circle cx="{x(seconds):.1f}" cy="{y:.1f}" r="4" fill="{COLORS[5]}" fill-opacity="0.35"/>'
            for seconds in phase.seconds
        ]
        parts.append(f'<path d="M{x(middle):.1f} {y - 10:.1f}v20" stroke="{COLORS[4]}" stroke-width="2"/>')
        parts.append(label(LEFT + WIDTH + 12, y + 4, duration(middle)))
    return parts


def _bars(phases: Sequence[Phase], top: float) -> list[str]:
    stages = stage_names(phases)
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(stages)} | OTHERS
    parts = [label(16, top - 14, "mean time by stage")]
    at = float(LEFT)
    for name in stages:
        parts.append(f'<rect x="{at:.1f}" y="{top - 24:.1f}" width="10" height="10" fill="{colors[name]}"/>')
        parts.append(label(at + 14, top - 15, name, size=12))
        at += 24 + 6.8 * len(name)
    for number, phase in enumerate(phases):
        y, told = top + ROW * number, phase.stages_ms()
        whole, at = sum(told.values()), float(LEFT)
        parts.append(label(LEFT - 12, y + ROW / 2 + 4, phase.name, anchor="end"))
        for name, milliseconds in told.items():
            width = milliseconds / whole * WIDTH
            parts.append(
                f'<rect x="{at:.1f}" y="{y + 6:.1f}" width="{width:.1f}" height="{ROW - 12}"'
                f' fill="{colors[name]}"><title>{escape(name)} {milliseconds:.1f} ms</title></rect>'
            )
            at += width
        parts.append(label(LEFT + WIDTH + 12, y + ROW / 2 + 4, duration(whole / 1e3)))
    return parts


def _curves(phases: Sequence[Phase], top: float) -> list[str]:
    shares = (50, 75, 90, 95, 99)
    latencies = {phase.name: [percentile(phase.seconds, share) for share in shares] for phase in phases}
    parts = panel(90, top, "latency by percentile", [f"p{share}" for share in shares], latencies, _one_digit)
    # The last two: the same clicks from one client and from several.
    rates = {counted(phase.clients, "client"): phase.per_second for phase in phases[-2:]}
    return parts + panel(
        90 + WIDTH_OF_A_PANEL + 120,
        top,
        "answers a second",
        list(rates),
        {"click by image_id": list(rates.values())},
        "{:g}".format,
    )


def _one_digit(seconds: float) -> str:
    return duration(seconds, digits=1)
