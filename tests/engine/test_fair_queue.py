import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.engine.fair_queue import FairQueue


def queued(*items: tuple[str, int]) -> FairQueue[tuple[str, int]]:
    """A queue of such items, the first of each pair the owner."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for item in items:
        queue.add(item, item[0])
    return queue


def test_one_owner_is_served_in_order() -> None:
    """Alone, everything is first come, first served."""
    queue = queued(*[("a", number) for number in range(5)])

    assert [("a", number) for number in range(5)] == [queue.take() for _ in range(5)]


def test_the_second_owner_is_next() -> None:
    """Not behind the first one's backlog."""
    queue = queued(*[("a", number) for number in range(16)])
    queue.take()
    queue.add(("b", 0), "b")
    queue.done("a", 1.0)

    assert ("b", 0) == queue.take()


def test_who_runs_less_goes_first() -> None:
    """Of several workers, each owner with work gets one before anybody gets two."""
    queue = queued(("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0))

    assert {"a", "b", "c"} == {queue.take()[0] for _ in range(3)}


def test_seconds_count_and_not_items() -> None:
    """Who has had a second waits while another gets as much in small pieces."""
    queue = queued(("a", 0), ("b", 0), *[("a", number) for number in range(1, 50)])
    for _ in range(2):
        owner, _ = queue.take()
        queue.done(owner, 1.0 if owner == "b" else 0.1)
    queue.add(("b", 1), "b")
    order = []
    for _ in range(15):
        owner, _ = queue.take()
        queue.done(owner, 0.1)
        order.append(owner)

    assert 8 <= order.index("b") <= 10


def test_nobody_saves_up_turns() -> None:
    """An owner that was away starts beside the others, not before all they had meanwhile."""
    queue = queued(*[("a", number) for number in range(100)])
    for _ in range(50):
        queue.take()
        queue.done("a", 1.0)
    for number in range(10):
        queue.add(("b", number), "b")
    order = []
    for _ in range(10):
        owner, _ = queue.take()
        queue.done(owner, 1.0)
        order.append(owner)

    assert abs(order.count("a") - order.count("b")) <= 1


def test_a_removed_item_is_not_served() -> None:
    """Nor counted; one that does not wait is told so."""
    queue = queued(("a", 0), ("a", 1))

    assert queue.remove(("a", 0), "a")
    assert not queue.remove(("a", 0), "a")
    assert not queue.remove(("b", 0), "b")
    assert (1, ("a", 1), 0) == (len(queue), queue.take(), len(queue))
    with pytest.raises(IndexError):
        queue.take()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 2.0)), max_size=60), st.integers(1, 3), st.integers())
def test_everything_is_served_once_and_owners_keep_step(
    items: list[tuple[str, float]], workers: int, seed: int
) -> None:
    """Whatever comes: all of it is served, in each owner's order, and none that waits had less than who is served."""
    rng = random.Random(seed)  # noqa: S311
    queue: FairQueue[tuple[str, float, int]] = FairQueue()
    for number, (owner, seconds) in enumerate(items):
        queue.add((owner, seconds, number), owner)
    served = dict.fromkeys("abc", 0.0)
    running: list[tuple[str, float, int]] = []
    order: dict[str, list[int]] = {}
    while len(queue) or running:
        while len(queue) and len(running) < workers:
            before = {owner: queue.running_of(owner) for owner in queue.lines()}
            item = queue.take()
            # Of those that run as little, nobody had less; tiny items count as a millisecond.
            rivals = [owner for owner, count in before.items() if count <= before[item[0]]]
            assert all(before[owner] == before[item[0]] for owner in rivals)
            assert all(served[item[0]] <= served[owner] + 0.1 for owner in rivals)
            order.setdefault(item[0], []).append(item[2])
            running.append(item)
        done = running.pop(rng.randrange(len(running)))
        queue.done(done[0], done[1])
        served[done[0]] += done[1]
    assert len(items) == sum(map(len, order.values()))
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert 0 == queue.running
