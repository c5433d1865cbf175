"""Curves over a few named places, such as percentiles or numbers of clients, on a logarithmic axis, as SVG. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

# Colours for most kinds of colour vision (Okabe and Ito, 2008).
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, LINE = "#222222", "#dddddd"
HEIGHT, WIDTH = 220, 300
# What one curve's name takes below the panel.
LEGEND_ROW = 18


def label(x: float, y: float, words: str, *, anchor: str = "start", size: int = 13) -> str:
    """A line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">{escape(words)}</text>'
    )


def panel(
    left: float,
    top: float,
    title: str,
    places: Sequence[str],
    curves: Mapping[str, Sequence[float | None]],
    written: Callable[[float], str],
) -> list[str]:
    """One panel of ``WIDTH`` by ``HEIGHT`` and the curves' names below it.

    Args:
        left: of the plot; the axis is written to the left of it.
        top: of the plot; the title is above it.
        title: what is shown.
        places: along the horizontal axis, at equal distances.
        curves: by name, a positive value for each place, or None where none was measured.
        written: how a value is written at the axis.
    """
    values = [value for curve in curves.values() for value in curve if value is not None]
    first = math.floor(math.log10(min(values)))
    last = max(first + 1, math.ceil(math.log10(max(values))))

    def x(place: int) -> float:
        return left + (place + 0.5) / len(places) * WIDTH

    def y(value: float) -> float:
        return top + HEIGHT - (math.log10(value) - first) / (last - first) * HEIGHT

    parts = [label(left, top - 14, title, size=14)]
    for exponent in range(first, last + 1):
        at = y(10.0**exponent)
        parts.append(f'<path d="M{left:.1f} {at:.1f}h{WIDTH}" stroke="{LINE}"/>')
        parts.append(label(left - 8, at + 4, written(10.0**exponent), anchor="end", size=12))
    parts += [
        label(x(number), top + HEIGHT + 18, place, anchor="middle", size=12) for number, place in enumerate(places)
    ]
    for number, (name, curve) in enumerate(curves.items()):
        color, below = COLORS[number % len(COLORS)], top + HEIGHT + 42 + LEGEND_ROW * number
        points = [(x(place), y(value)) for place, value in enumerate(curve) if value is not None]
        drawn = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        parts.append(f'<path d="M{drawn}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        parts += [
            f'<rect x="{across - 3:.1f}" y="{down - 3:.1f}" width="6" height="6" fill="{color}"/>'
            for across, down in points
        ]
        parts.append(f'<path d="M{left:.1f} {below - 4:.1f}h18" stroke="{color}" stroke-width="3"/>')
        parts.append(label(left + 26, below, name, size=12))
    return parts


def height_of(curves: int) -> int:
    """How much a panel takes from the top of its plot, with so many names below."""
    return HEIGHT + 42 + LEGEND_ROW * curves
