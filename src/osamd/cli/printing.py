"""Tables and sizes as all commands print them."""

import math
from collections.abc import Sequence
from typing import Final

UNITS: Final = ("B", "KB", "MB", "GB", "TB")
STEP: Final = 1000


def table(rows: Sequence[Sequence[str]], *, are_figures: bool = False) -> str:
    """Rows in aligned columns.

    Args:
        rows: cells, as many in each row.
        are_figures: whether to align all columns but the first on their right.
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
    """A number with so many significant digits, its whole part in full."""
    if value <= 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"
