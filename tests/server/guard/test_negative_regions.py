"""What is remembered of negative regions stays bounded."""

from osamd.server.guard.negative_regions import LONGEST_ID, MOST_REMEMBERED, NegativeRegions


def test_the_newest_of_many_are_known_to_their_owner() -> None:
    """Up to a number, and none with an absurd id."""
    negative = NegativeRegions()
    regions = [str(number) for number in range(MOST_REMEMBERED + 2)]
    negative.remember("me", "8", regions)
    assert set(regions[2:]) == negative.among("me", "8", regions)
    negative.remember("me", "8", ["2", "new", "", "x" * (LONGEST_ID + 1)])
    assert {"2", "new"} == negative.among("me", "8", ["2", "3", "new", "", "x" * (LONGEST_ID + 1)])
    assert not negative.among("you", "8", ["2"])
    assert not negative.among("me", "9", ["2"])
