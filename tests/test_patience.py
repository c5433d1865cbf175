import pytest

from osamd.patience import Patience


@pytest.mark.parametrize(
    ("seconds", "most", "expected"), [(None, None, None), (None, 5.0, 5.0), (0.0, None, 0.0), (0.0, 5.0, 0.0)]
)
def test_what_is_left(seconds: float | None, most: float | None, expected: float | None) -> None:
    """No end stays no end, unless one wait is capped; what is used up is 0, never less."""
    assert expected == Patience(seconds).left(most=most)


def test_waits_share_it() -> None:
    """Each answer is at most the one before, and at most the cap."""
    patience = Patience(100.0)
    first, second, capped = patience.left(), patience.left(), patience.left(most=1.0)
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 100
    assert 1.0 == capped
