import asyncio
import gc
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from osamd.engine.cache import OwnedCache, SingleFlight

TTL_S = 10.0


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time now."""
        return self.now


def cache_of(capacity_bytes: int, clock: Clock | None = None) -> OwnedCache[str]:
    """A cache with a clock that stands still unless one is given."""
    return OwnedCache(capacity_bytes=capacity_bytes, ttl_s=TTL_S, clock=clock or Clock())


def test_the_least_recently_used_goes_first() -> None:
    """A value that was used lately survives one that was put later but not used."""
    cache = cache_of(30)
    for key in ("a", "b", "c"):
        cache.put(key, key.upper(), nbytes=10, owner="me")
    assert "A" == cache.get("a", owner="me")

    cache.put("d", "D", nbytes=10, owner="me")

    assert [None, "A", "C", "D"] == [cache.get(key, owner="me") for key in ("b", "a", "c", "d")]
    assert 30 == cache.nbytes


def test_a_large_value_takes_the_room_of_several() -> None:
    """As many go as are needed, and no more."""
    cache = cache_of(30)
    for key in ("a", "b", "c"):
        cache.put(key, key, nbytes=10, owner="me")

    cache.put("big", "big", nbytes=15, owner="me")

    assert [None, None, "c", "big"] == [cache.get(key, owner="me") for key in ("a", "b", "c", "big")]
    assert 25 == cache.nbytes


def test_a_value_larger_than_the_cache_is_not_kept_and_costs_nobody_else() -> None:
    """An impossible value does not empty the cache in vain."""
    cache = cache_of(30)
    cache.put("a", "A", nbytes=30, owner="me")

    cache.put("huge", "HUGE", nbytes=31, owner="me")

    assert cache.get("huge", owner="me") is None
    assert "A" == cache.get("a", owner="me")


def test_the_owner_holding_most_is_evicted_first() -> None:
    """An owner with a hundred values evicts their own; another owner's single, older one stays."""
    cache: OwnedCache[int] = OwnedCache(capacity_bytes=100, ttl_s=60)
    cache.put("few", 1, nbytes=10, owner="alice")
    for number in range(100):
        cache.put(f"many-{number}", number, nbytes=10, owner="bob")

    assert 1 == cache.get("few", owner="alice")
    assert [None, 91] == [cache.get(f"many-{number}", owner="bob") for number in (90, 91)]
    assert 100 == cache.nbytes


def test_a_large_value_of_a_newcomer_finds_room() -> None:
    """Somebody whose one value is the largest share of all still gets it in: the others give up what they must."""
    cache: OwnedCache[int] = OwnedCache(capacity_bytes=100, ttl_s=60)
    for number in range(10):
        cache.put(f"small-{number}", number, nbytes=10, owner="bob")
    cache.put("large", 1, nbytes=70, owner="alice")

    assert 1 == cache.get("large", owner="alice")
    assert [7, 8, 9] == [
        found for number in range(10) if (found := cache.get(f"small-{number}", owner="bob")) is not None
    ]
    assert 100 == cache.nbytes


def test_putting_again_replaces() -> None:
    """The new value counts, once."""
    cache = cache_of(30)
    cache.put("a", "old", nbytes=20, owner="me")
    cache.put("a", "new", nbytes=5, owner="me")

    assert "new" == cache.get("a", owner="me")
    assert (1, 5) == (len(cache), cache.nbytes)


def test_an_unused_value_expires_and_a_used_one_does_not() -> None:
    """Each use starts the time anew; after ``ttl_s`` without one the value is gone and its bytes are free."""
    clock = Clock()
    cache = cache_of(30, clock)
    cache.put("used", "used", nbytes=10, owner="me")
    cache.put("unused", "unused", nbytes=10, owner="me")

    clock.now += TTL_S - 0.1
    assert "used" == cache.get("used", owner="me")
    clock.now += 0.1

    assert cache.get("unused", owner="me") is None
    assert "used" == cache.get("used", owner="me")
    assert 10 == cache.nbytes


def test_owners_never_see_each_others_values() -> None:
    """Knowing the key is not enough: to others the value does not exist, for reading and for deleting."""
    cache = cache_of(30)
    cache.put("a", "secret", nbytes=10, owner="alice")

    assert cache.get("a", owner="bob") is None
    assert cache.get("a", owner="") is None
    assert not cache.delete("a", owner="bob")
    assert "secret" == cache.get("a", owner="alice")


def test_anothers_question_does_not_keep_a_value_alive() -> None:
    """Only its owner's use counts as use."""
    clock = Clock()
    cache = cache_of(30, clock)
    cache.put("a", "secret", nbytes=10, owner="alice")
    clock.now += TTL_S - 1
    cache.get("a", owner="bob")
    clock.now += 1

    assert cache.get("a", owner="alice") is None


def test_delete_forgets_once() -> None:
    """The first time there is something to forget, the second time there is not."""
    cache = cache_of(30)
    cache.put("a", "A", nbytes=10, owner="me")

    assert [True, False] == [cache.delete("a", owner="me"), cache.delete("a", owner="me")]
    assert (0, 0) == (len(cache), cache.nbytes)


def test_clear_forgets_everything() -> None:
    """Nothing is left, and the whole budget is free."""
    cache = cache_of(30)
    cache.put("a", "A", nbytes=30, owner="me")
    cache.clear()
    cache.put("b", "B", nbytes=30, owner="me")

    assert (None, "B") == (cache.get("a", owner="me"), cache.get("b", owner="me"))


CAPACITY = 50
# A key is made from its owner, as the engine's keys are; asking with the wrong owner is tried all the same.
owners = st.sampled_from(["alice", "bob"])
keys = st.builds("{}:{}".format, owners, st.integers(0, 5))


class CacheMachine(RuleBasedStateMachine):
    """Any sequence of calls gives what a list of entries in order of use would give."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = cache_of(CAPACITY, self.clock)
        # key -> value, bytes, time of the last use; the least recently used first.
        self.model: OrderedDict[str, tuple[str, int, float]] = OrderedDict()
        self.serial = 0

    def alive(self, key: str) -> bool:
        """Whether the model still has the key."""
        return key in self.model and self.clock.now - self.model[key][2] < TTL_S

    def next_to_go(self, new: str) -> str:
        """The least recently used entry of the owner who holds most; the new one stays."""
        held = dict.fromkeys(("alice", "bob"), 0)
        for key, (_, size, _) in self.model.items():
            held[key.partition(":")[0]] += size
        others = [key for key in self.model if key != new]
        most = max(held[key.partition(":")[0]] for key in others)
        return next(key for key in others if held[key.partition(":")[0]] == most)

    @rule(key=keys, nbytes=st.integers(0, CAPACITY + 10))
    def put(self, key: str, nbytes: int) -> None:
        """A new value under a key."""
        self.serial += 1
        value = f"value {self.serial}"
        self.cache.put(key, value, nbytes=nbytes, owner=key.split(":", maxsplit=1)[0])
        self.model.pop(key, None)
        for other in list(self.model):
            if not self.alive(other):
                del self.model[other]
        if nbytes <= CAPACITY:
            self.model[key] = (value, nbytes, self.clock.now)
            while sum(size for _, size, _ in self.model.values()) > CAPACITY:
                del self.model[self.next_to_go(key)]
        assert sum(size for _, size, _ in self.model.values()) == self.cache.nbytes

    @rule(key=keys, owner=owners)
    def get(self, key: str, owner: str) -> None:
        """Ask, as the owner or as somebody else."""
        is_given = self.alive(key) and key.startswith(owner)
        expected = self.model[key][0] if is_given else None
        assert expected == self.cache.get(key, owner=owner)
        if is_given:
            value, size, _ = self.model.pop(key)
            self.model[key] = (value, size, self.clock.now)

    @rule(key=keys, owner=owners)
    def delete(self, key: str, owner: str) -> None:
        """Delete, as the owner or as somebody else."""
        is_there = self.alive(key) and key.startswith(owner)
        assert is_there == self.cache.delete(key, owner=owner)
        if is_there:
            del self.model[key]

    @rule(seconds=st.sampled_from([0.0, 3.0, TTL_S]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.now += seconds

    @invariant()
    def bytes_are_within_the_budget_and_add_up(self) -> None:
        """Never more than allowed, and never less than what lives."""
        living = sum(size for key, (_, size, _) in self.model.items() if self.alive(key))
        assert living <= self.cache.nbytes <= CAPACITY


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(deadline=None)


class Work:
    """Counts its runs and ends when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = 0
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        """Wait for the end."""
        self.runs += 1
        try:
            return await asyncio.shield(self.end)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def start(
    flights: SingleFlight[str], work: Callable[[], Coroutine[Any, Any, str]], count: int, key: str = "key"
) -> list["asyncio.Task[str]"]:
    """Callers that want the same."""
    return [asyncio.create_task(flights.do(key, work)) for _ in range(count)]


async def breathe() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_many_callers_one_run() -> None:
    """Ten callers get the result of one run; another key is another run."""

    async def main() -> None:
        flights: SingleFlight[str] = SingleFlight()
        work, other = Work(), Work()
        callers = start(flights, work, 10)
        others = start(flights, other, 1, key="other")
        await breathe()
        work.end.set_result("result")
        other.end.set_result("other result")

        assert ["result"] * 10 == await asyncio.gather(*callers)
        assert ["other result"] == await asyncio.gather(*others)
        assert (1, 1) == (work.runs, other.runs)

    asyncio.run(main())


def test_an_error_goes_to_every_caller() -> None:
    """Nobody waits for ever for work that failed."""

    async def main() -> None:
        flights: SingleFlight[str] = SingleFlight()
        work = Work()
        callers = start(flights, work, 3)
        await breathe()
        work.end.set_exception(ValueError("broken"))

        answers = await asyncio.gather(*callers, return_exceptions=True)

        assert ["broken"] * 3 == [str(answer) for answer in answers]
        assert [ValueError] * 3 == [type(answer) for answer in answers]

    asyncio.run(main())


@pytest.mark.parametrize("leaving", [0, 1, 2])
def test_one_caller_may_leave(leaving: int) -> None:
    """The work goes on for those who stay, also when the one who started it leaves."""

    async def main() -> None:
        flights: SingleFlight[str] = SingleFlight()
        work = Work()
        callers = start(flights, work, 3)
        await breathe()
        callers[leaving].cancel()
        await breathe()
        late = start(flights, work, 1)
        await breathe()
        work.end.set_result("result")
        staying = [caller for index, caller in enumerate(callers) if index != leaving]

        assert ["result"] * 3 == await asyncio.gather(*staying, *late)
        assert callers[leaving].cancelled()
        assert (1, 0) == (work.runs, work.cancelled)

    asyncio.run(main())


def test_work_that_nobody_wants_any_more_is_cancelled() -> None:
    """When the last caller leaves, the work stops, and the next caller starts anew at once."""

    async def main() -> None:
        flights: SingleFlight[str] = SingleFlight()
        work, anew = Work(), Work()
        callers = start(flights, work, 2)
        await breathe()
        for caller in callers:
            caller.cancel()
        # Not a moment to breathe: the cancelled work is still being unwound when the next caller comes.
        await asyncio.sleep(0)
        successors = start(flights, anew, 2)
        await breathe()
        successors += start(flights, anew, 1)
        await breathe()
        anew.end.set_result("anew")

        assert ["anew"] * 3 == await asyncio.gather(*successors)
        assert (1, 1) == (work.runs, work.cancelled)
        assert (1, 0) == (anew.runs, anew.cancelled)

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_the_next_call_runs_anew(fails: bool) -> None:  # noqa: FBT001
    """Results and errors are not remembered: that is the cache's business."""

    async def main() -> None:
        flights: SingleFlight[str] = SingleFlight()
        first, second = Work(), Work()
        if fails:
            first.end.set_exception(ValueError("broken"))
        else:
            first.end.set_result("first")
        await asyncio.gather(*start(flights, first, 1), return_exceptions=True)
        second.end.set_result("second")

        assert "second" == await flights.do("key", second)
        assert (1, 1) == (first.runs, second.runs)

    asyncio.run(main())


def test_an_error_that_nobody_is_left_to_hear_is_not_reported_as_forgotten() -> None:
    """The last caller leaves and the work fails on being cancelled: the event loop has nothing to complain about."""

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("broken") from None
        return "never"

    async def main() -> list[dict[str, Any]]:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        flights: SingleFlight[str] = SingleFlight()
        (caller,) = start(flights, work, 1)
        await breathe()
        caller.cancel()
        await breathe()
        assert caller.cancelled()
        gc.collect()
        return complaints

    assert [] == asyncio.run(main())
