"""Medians with quartiles, ratios that survive a noisy machine, percentiles. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its quartiles.

    Attributes:
        low: first quartile.
        middle: median.
        high: third quartile.
        count: how many values it is from.
    """

    low: float
    middle: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated between the nearest values.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high, len(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The spread of ``above / below`` round by round.

    Both were measured in the same rounds, one right after the other, so that what else the machine did in a round is in
    both and cancels out.

    Args:
        above: one value a round.
        below: one value a round, all positive.

    Raises:
        ValueError: not as many of one as of the other, or none.
    """
    return spread([first / second for first, second in zip(above, below, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0..1) of the values do not exceed.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    # Ten billionths, so that 0.99 of 100 values is 99 of them and not 99.00000000000001.
    needed = share * len(ordered) - 1e-10
    return ordered[min(len(ordered) - 1, max(0, int(-(-needed // 1)) - 1))]
