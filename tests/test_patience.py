import pytest

from osamd.patience import Patience


@pytest.mark.parametrize(
    ("seconds", "most", "expected"), [(None, None, None), (None, 5.0, 5.0), (0.0, None, 0.0), (0.0, 5.0, 0.0)]
)
def test_remaining_seconds_never_go_below_zero(
    seconds: float | None, most: float | None, expected: float | None
) -> None:
    """No limit stays no limit unless the wait is capped; an expired limit gives 0."""
    assert expected == Patience(seconds).left(most=most)


def test_waits_share_the_time_limit() -> None:
    """Each answer is at most the one before, and at most the cap."""
    patience = Patience(100.0)
    first, second, capped = patience.left(), patience.left(), patience.left(most=1.0)
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 100
    assert 1.0 == capped
