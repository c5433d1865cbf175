import pytest
from benchmarks.spread import Spread, percentile, ratios, spread


def test_a_spread_is_the_median_between_its_quartiles() -> None:
    """Quartiles are interpolated as most tools do; one value is its own spread."""
    assert Spread(2.0, 3.0, 4.0, 5) == spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert Spread(7.0, 7.0, 7.0, 1) == spread([7.0])


def test_a_ratio_is_taken_round_by_round() -> None:
    """A round in which the whole machine was ten times slower does not change the ratio, as medians of each would."""
    ours, theirs = [1.0, 10.0, 1.5], [2.0, 20.0, 3.0]

    assert Spread(0.5, 0.5, 0.5, 3) == ratios(ours, theirs)


def test_rounds_that_do_not_match_are_refused() -> None:
    """A side that was measured less often cannot be compared round by round."""
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    """The nearest rank: at least that share of the values is not above it."""
    assert expected == percentile([float(value) for value in range(100, 0, -1)], share)


@pytest.mark.parametrize("function", [spread, lambda values: percentile(values, 0.5)])
def test_median_of_nothing_is_an_error(function: object) -> None:
    """No values are an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        function([])  # type: ignore[operator]
