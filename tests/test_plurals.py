"""``1 photo``, not ``1 photos``."""

from osamd.plurals import counted


def test_one_has_no_plural() -> None:
    """Large numbers have separators."""
    assert ["0 photos", "1 photo", "2 photos", "2,000 photos"] == [counted(n, "photo") for n in (0, 1, 2, 2000)]
