import pytest

from osamd.errors import RateLimitedError
from osamd.server.guard.rate_limit import RateLimit


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def takes(allowance: RateLimit, name: str, count: int) -> int:
    """How many of so many tries are allowed."""
    allowed = 0
    for _ in range(count):
        try:
            allowance.take(name)
        except RateLimitedError:
            continue
        allowed += 1
    return allowed


def test_so_many_at_once_and_then_as_they_grow_back() -> None:
    """A minute's worth may be used at once; half a minute later half of it is there again, an hour later all of it."""
    clock = Clock()
    allowance = RateLimit("clicks", 10, clock=clock)
    at_once = takes(allowance, "alice", 30)
    clock.now += 30.0
    later = takes(allowance, "alice", 30)
    clock.now += 3600.0

    assert (10, 5, 10) == (at_once, later, takes(allowance, "alice", 30))


def test_each_name_has_its_own() -> None:
    """One who asks too much takes nothing from others."""
    allowance = RateLimit("clicks", 3, clock=Clock())

    assert (3, 3) == (takes(allowance, "alice", 9), takes(allowance, "bob", 9))


def test_the_refusal_says_what_and_until_when() -> None:
    """After the time it names, one more is allowed, and not before."""
    clock = Clock()
    allowance = RateLimit("clicks", 6, clock=clock)
    takes(allowance, "alice", 6)
    with pytest.raises(RateLimitedError, match="6 clicks per minute") as caught:
        allowance.take("alice")

    assert caught.value.retry_after_s == pytest.approx(10.0)
    clock.now += 9.9
    assert 0 == takes(allowance, "alice", 1)
    clock.now += 0.2
    assert 1 == takes(allowance, "alice", 9)
