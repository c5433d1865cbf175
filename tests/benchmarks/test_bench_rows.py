import json

import pytest
from benchmarks.rows import Outcome, Row, Target, duration, figure, rows_of, size, table
from benchmarks.spread import spread

FASTER = Row(
    "next click: faster", spread([29.0, 31.0, 33.0]), "x", "than osam", Target("at least", 30.0), {"osamd": "61 ms"}
)
SLOWER = Row("first request: cost", spread([1.2]), "x", "of bare", Target("at most", 1.05))
TOLD = Row("processor the clients took", spread([12.0]), "%")


def test_the_verdict_is_the_median_on_the_good_side_of_the_bound() -> None:
    """A row without a target judges nothing."""
    assert ["met", "missed", ""] == [FASTER.verdict, SLOWER.verdict, TOLD.verdict]


def test_the_table_says_value_quartiles_target_and_verdict() -> None:
    """One line a row, below two of head."""
    lines = table([FASTER, SLOWER]).splitlines()

    assert (
        "| next click: faster | 31.0 x than osam | 30.0 to 32.0 (3) | at least 30.0 x | met | osamd 61 ms |" == lines[2]
    )
    assert "| first request: cost | 1.20 x of bare | 1.20 to 1.20 (1) | at most 1.05 x | missed |  |" == lines[3]
    assert 4 == len(lines)


def test_rows_come_back_from_json() -> None:
    """The table can be written from files of earlier runs."""
    outcome = Outcome([FASTER, TOLD], {"osamd": [0.06]}, ["a note"])

    assert [FASTER, TOLD] == rows_of(json.loads(json.dumps(outcome.as_json())))


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, "0"), (0.00123, "0.00123"), (9.999, "10.00"), (61.23, "61.2"), (20900.0, "20900")]
)
def test_figures_have_three_digits(value: float, expected: str) -> None:
    """Enough to compare, and never an exponent."""
    assert expected == figure(value)


def test_amounts_have_units_that_fit() -> None:
    """Milliseconds below a second, and decimal bytes."""
    assert ["61.2 ms", "1.97 s"] == [duration(0.0612), duration(1.97)]
    assert ["871 B", "24.1 KB", "20.9 MB", "6.90 GB"] == [size(871), size(24_100), size(20.9e6), size(6.9e9)]
