"""A line of the table: what was measured, against what, the target, and whether it was met."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.spread import Spread

Goal = Literal["at least", "at most"]
THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """What the value must be.

    Attributes:
        goal: which side of the bound is good.
        bound: in the row's unit.
    """

    goal: Goal
    bound: float

    def is_met_by(self, value: float) -> bool:
        """Whether the value is on the good side."""
        return value >= self.bound if self.goal == "at least" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One claim.

    Attributes:
        what: the claim's subject, such as "next click, EfficientSAM Ti, by image_id".
        value: the measured value that the target is about; its median is judged.
        unit: ``x`` for a ratio, else ``ms``, ``s``, ``MB`` and the like.
        versus: what a ratio is against, such as "osam"; empty for a plain value.
        target: None for a row that only informs.
        amounts: the medians behind it, as text by name, such as {"osamd": "61 ms", "osam": "1.9 s"}.
    """

    what: str
    value: Spread
    unit: str
    versus: str = ""
    target: Target | None = None
    amounts: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or empty without a target."""
        if self.target is None:
            return ""
        return "met" if self.target.is_met_by(self.value.middle) else "missed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario found.

    Attributes:
        rows: its lines of the table.
        raw: every number it took, by name, seconds unless the name says otherwise.
        notes: sentences that a reader of the table needs.
    """

    rows: Sequence[Row]
    raw: Mapping[str, Any]
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything, verdicts too."""
        return {
            "rows": [asdict(row) | {"verdict": row.verdict} for row in self.rows],
            "notes": list(self.notes),
            "raw": dict(self.raw),
        }


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The rows of what ``Outcome.as_json`` made."""
    rows = []
    for item in document["rows"]:
        fields = {name: value for name, value in item.items() if name != "verdict"}
        target = Target(**fields["target"]) if fields["target"] else None
        rows.append(Row(**fields | {"value": Spread(**fields["value"]), "target": target}))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | measured | quartiles | target | verdict | medians behind it |", "|---|---|---|---|---|---|"]
    for row in rows:
        versus = f" {row.versus}" if row.versus else ""
        measured = f"{figure(row.value.middle)} {row.unit}{versus}"
        quartiles = f"{figure(row.value.low)} to {figure(row.value.high)} ({row.value.count})"
        target = "" if row.target is None else f"{row.target.goal} {figure(row.target.bound)} {row.unit}"
        amounts = ", ".join(f"{name} {amount}" for name, amount in row.amounts.items())
        lines.append(f"| {row.what} | {measured} | {quartiles} | {target} | {row.verdict} | {amounts} |")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Such as ``61.2 ms`` or ``1.97 s``."""
    return f"{figure(seconds)} s" if abs(seconds) >= 1 else f"{figure(seconds * THOUSAND)} ms"


def size(nbytes: float) -> str:
    """Such as ``24.1 KB`` or ``20.9 MB``."""
    for unit in ("B", "KB", "MB"):
        if abs(nbytes) < THOUSAND:
            return f"{figure(nbytes)} {unit}"
        nbytes /= THOUSAND
    return f"{figure(nbytes)} GB"
