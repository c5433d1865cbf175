"""Tables and sizes, as printed by all commands."""

import math
from collections.abc import Sequence
from typing import Final

UNITS: Final = ("B", "KB", "MB", "GB", "TB")
STEP: Final = 1000


def table(rows: Sequence[Sequence[str]], *, are_figures: bool = False) -> str:
    """Format rows in aligned columns.

    Args:
        rows: cells, the same number in each row.
        are_figures: whether to right-align all columns but the first.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if are_figures and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def size(nbytes: float) -> str:
    """Bytes in decimal units with three significant digits, such as ``871 B``, ``38.7 MB`` or ``3.40 GB``."""
    if nbytes < STEP:
        return f"{nbytes:.0f} B"
    exponent = min(len(UNITS) - 1, int(math.log10(nbytes) // 3))
    return f"{significant(nbytes / STEP**exponent)} {UNITS[exponent]}"


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, never rounding its integer part."""
    if value <= 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"
