import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from opened_lanes import settle
from timers import HeldTimers
from waiting import WAIT_S

from osamd.engine.loaded_models import LoadedModels, half_of_memory
from osamd.errors import ModelLoadError, OsamdError, OverloadedError
from osamd.keep_alive import PINNED, KeepAlive
from osamd.library.catalog import Blob, Model
from osamd.models.base import Adapter

BUDGET = 100


@dataclass(eq=False)
class Shown:
    """An adapter that only shows which model it is."""

    model: str
    device: str = "here"


def model(name: str, nbytes: int = 60) -> Model:
    """A row whose size is in its name's blob."""
    return Model(f"{name}:latest", "sam", {"encoder": Blob("https://example.org/x", f"{nbytes:064x}")})


A, B, C = model("a"), model("b"), model("c", 40)


@dataclass
class Host:
    """A residency whose loads a test can watch, hold up and make fail."""

    keep_alive_s: KeepAlive = None
    wait_s: float = WAIT_S
    events: list[str] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    preloaded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.residency = LoadedModels(
            budget_bytes=BUDGET,
            keep_alive_s=self.keep_alive_s,
            load=self._load,
            measure=lambda row: int(row.blobs["encoder"].sha256, 16),
            unloaded=lambda row: self.events.append(f"unload {row.name[0]}"),
            wait_s=self.wait_s,
            preloaded=lambda row: row.name in self.preloaded,
        )

    async def _load(self, row: Model) -> Adapter:
        self.events.append(f"load {row.name[0]}")
        if row.name in self.gates:
            await self.gates[row.name].wait()
        if row.name in self.failing:
            raise ModelLoadError("broken")
        return cast("Adapter", Shown(row.name))

    async def use(self, row: Model, keep_alive_s: KeepAlive = None, *, by_operator: bool = True) -> str:
        """Use a model for a moment; the name of the one that was given."""
        async with self.residency.using(row, keep_alive_s=keep_alive_s, by_operator=by_operator) as adapter:
            await asyncio.sleep(0)
            return cast("Shown", adapter).model

    async def hold(self, row: Model, until: asyncio.Event, keep_alive_s: KeepAlive = None) -> None:
        """Use a model until told."""
        async with self.residency.using(row, keep_alive_s=keep_alive_s):
            await until.wait()

    @property
    def stays(self) -> dict[str, KeepAlive]:
        """How long each loaded model stays, by its letter."""
        return {resident.model.name[0]: resident.expires_in_s for resident in self.residency.residents()}

    @property
    def here(self) -> list[str]:
        """Letters of the loaded models, the most recently used first."""
        return [resident.model.name[0] for resident in self.residency.residents()]


def run(
    main: Callable[[Host], Coroutine[Any, Any, None]], *, keep_alive_s: KeepAlive = None, wait_s: float = WAIT_S
) -> None:
    """Run a test's coroutine; the residency is closed at the end, and nothing may go wrong unseen on the loop."""

    async def whole() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        host = Host(keep_alive_s, wait_s)
        await asyncio.wait_for(main(host), WAIT_S)
        await host.residency.close()
        assert not host.here
        assert not problems

    asyncio.run(whole())


async def breathe() -> None:
    """Let tasks come as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


def pass_time(seconds: float) -> None:
    """Let the running loop believe that so much time has passed."""
    loop = asyncio.get_running_loop()
    real = loop.time
    setattr(loop, "time", lambda: real() + seconds)  # noqa: B010 - mypy lets no method be assigned


def test_model_is_loaded_once() -> None:
    """Many who want a model at once share one load, and later ones find it loaded."""

    async def main(host: Host) -> None:
        assert ["a:latest"] * 5 == await asyncio.gather(*(host.use(A) for _ in range(5)))
        await host.use(A)
        assert ["load a"] == host.events
        assert await host.residency.is_loaded(A)
        assert not await host.residency.is_loaded(B)

    run(main)


def test_least_recently_used_goes_first() -> None:
    """Where there is no room, the model goes that was not used for longest; the rest stay."""

    async def main(host: Host) -> None:
        small = [model(letter, 40) for letter in "pqr"]
        await host.use(small[0])
        await host.use(small[1])
        await host.use(small[0])
        await host.use(small[2])
        assert ["r", "p"] == host.here
        assert ["load p", "load q", "unload q", "load r"] == host.events

    run(main)


def test_budget_is_kept_exactly() -> None:
    """Models that fill the budget to the byte stay together; one byte more does not fit."""

    async def main(host: Host) -> None:
        await host.use(A)
        await host.use(C)
        assert ["c", "a"] == host.here
        await host.use(model("d", 1))
        assert ["d", "c"] == host.here

    run(main)


def test_model_beyond_the_budget_is_refused() -> None:
    """A model that could never fit is refused with both numbers, and pushes nobody out."""

    async def main(host: Host) -> None:
        await host.use(A)
        with pytest.raises(ModelLoadError, match="101 bytes; OSAMD_MODEL_MEMORY_BYTES allows 100"):
            await host.use(model("z", 101))
        assert ["a"] == host.here

    run(main)


def test_model_in_use_is_never_unloaded() -> None:
    """With room for one, a second model waits until the first is not used any more."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        waiter = asyncio.ensure_future(host.use(B))
        await breathe()
        assert (["load a"], False) == (host.events, waiter.done())
        # The one in use goes on to answer others meanwhile.
        assert "a:latest" == await host.use(A)
        done.set()
        await holder
        assert "b:latest" == await waiter
        assert ["load a", "unload a", "load b"] == host.events

    run(main)


def test_two_models_in_turns_with_room_for_one() -> None:
    """Requests for two models that do not fit together are all answered, each by its own model."""

    async def main(host: Host) -> None:
        answers = await asyncio.gather(*(host.use(row) for row in [A, B] * 6))
        assert ["a:latest", "b:latest"] * 6 == answers
        # Whoever waited for a load is served by it: there is no loading back and forth.
        assert 2 == sum(event.startswith("load") for event in host.events)

    run(main)


def test_two_small_models_are_together() -> None:
    """Models that fit together are both loaded, one after the other, and neither goes."""

    async def main(host: Host) -> None:
        await asyncio.gather(host.use(A), host.use(C), host.use(A), host.use(C))
        assert {"a", "c"} == set(host.here)
        assert ["load a", "load c"] == host.events

    run(main)


def test_pinned_models_are_not_pushed_out() -> None:
    """A pinned model stays; a model that does not fit alongside it is refused instead of waiting forever."""

    async def main(host: Host) -> None:
        await host.use(A, keep_alive_s=PINNED)
        with pytest.raises(OverloadedError, match="pinned"):
            await host.use(B)
        assert ["a"] == host.here
        assert PINNED == host.residency.residents()[0].expires_in_s
        # Nobody said otherwise, so it is still pinned after a request that says nothing.
        await host.use(A)
        with pytest.raises(OverloadedError):
            await host.use(B)
        await host.use(A, keep_alive_s=60.0)
        await host.use(B)
        assert ["b"] == host.here

    run(main)


def test_unloading_a_pinned_model_lets_the_next_one_in() -> None:
    """Who waits for room hears of it when a pinned model is let go while another is in use."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(C, done))
        await host.use(A, keep_alive_s=PINNED)
        waiter = asyncio.ensure_future(host.use(B))
        await breathe()
        assert host.residency.unload(A)
        assert "b:latest" == await waiter
        done.set()
        await holder

    run(main)


def test_keep_alive_zero_unloads_at_once() -> None:
    """A model that is not to stay goes with its last user, not with the first."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await host.use(A, keep_alive_s=0.0)
        assert ["a"] == host.here
        done.set()
        await holder
        assert not host.here
        assert ["load a", "unload a"] == host.events

    run(main)


@pytest.mark.parametrize("wish", [0.0, 1.0])
def test_users_cannot_shorten_what_the_operator_decided(wish: float) -> None:
    """A user's ``keep_alive`` leaves a model alone that is preloaded, or that an operator pinned or gave a time."""

    async def main(host: Host) -> None:
        host.preloaded = {A.name}
        await host.use(A)
        await host.use(A, wish, by_operator=False)
        await host.use(C, PINNED)
        await host.use(C, wish, by_operator=False)
        assert {"a": None, "c": PINNED} == host.stays
        await host.use(C, 600.0)
        await host.use(C, wish, by_operator=False)
        assert 599.0 < (host.stays["c"] or 0.0) <= 600.0
        await host.use(A, 0.0)
        assert ["c"] == host.here

    run(main)


def test_users_decide_where_no_operator_did() -> None:
    """Any other model goes when the user who asked for it says so, and an operator has the last word."""

    async def main(host: Host) -> None:
        await host.use(A, 0.0, by_operator=False)
        assert [] == host.here
        await host.use(A, 5.0, by_operator=False)
        await host.use(A, PINNED)
        await host.use(A, 5.0, by_operator=False)
        assert {"a": PINNED} == host.stays

    run(main)


def test_users_cannot_shorten_a_stay_for_good() -> None:
    """With ``OSAMD_KEEP_ALIVE=-1`` the operator pins every model."""

    async def main(host: Host) -> None:
        await host.use(A, 0.0, by_operator=False)
        assert {"a": PINNED} == host.stays

    run(main, keep_alive_s=PINNED)


def test_default_keep_alive() -> None:
    """Without a wish the server's default holds."""

    async def main(host: Host) -> None:
        await host.use(A)
        assert ["load a", "unload a"] == host.events

    run(main, keep_alive_s=0.0)


def test_expiry() -> None:
    """A model goes when its time is up; each use begins the time anew, and using it stops the clock."""

    async def main(host: Host) -> None:
        await host.use(A, keep_alive_s=30.0)
        (resident,) = host.residency.residents()
        assert resident.expires_in_s == pytest.approx(30.0, abs=5)
        timers = HeldTimers({20.0, 10.0})
        # The clock runs already when the next user comes.
        await host.use(A, keep_alive_s=20.0)
        assert [20.0] == timers.pending
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done, keep_alive_s=10.0))
        await settle(lambda: not timers.pending)
        done.set()
        await holder
        assert (["a"], [10.0]) == (host.here, timers.pending)
        timers.fire()
        await settle(lambda: not host.here)
        assert ["load a", "unload a"] == host.events

    run(main)


def test_unload() -> None:
    """A deleted model goes at once, or when its last user is done; one that is not here is no error."""

    async def main(host: Host) -> None:
        assert not host.residency.unload(A)
        await host.use(A, keep_alive_s=PINNED)
        assert host.residency.unload(A)
        assert not host.here
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        assert host.residency.unload(A)
        await host.use(A)
        assert ["a"] == host.here
        done.set()
        await holder
        assert not host.here

    run(main)


def test_unload_while_loading() -> None:
    """A model that is deleted while it is loaded answers who waits for it, and goes then."""

    async def main(host: Host) -> None:
        host.gates[A.name] = asyncio.Event()
        waiter = asyncio.ensure_future(host.use(A))
        await breathe()
        host.residency.unload(A)
        host.gates[A.name].set()
        assert "a:latest" == await waiter
        assert not host.here

    run(main)


def test_failed_load_frees_its_place() -> None:
    """Everybody who waited for a load that fails hears it; its room is free again, and the next request tries anew."""

    async def main(host: Host) -> None:
        host.failing.add(A.name)
        failures = await asyncio.gather(*(host.use(A) for _ in range(3)), return_exceptions=True)
        assert [ModelLoadError] * 3 == [type(failure) for failure in failures]
        assert "b:latest" == await host.use(B)
        host.failing.clear()
        assert "a:latest" == await host.use(A)
        assert ["load a", "load b", "unload b", "load a"] == host.events

    run(main)


def test_load_goes_on_without_its_waiters() -> None:
    """A load that has begun is not wasted when those who waited have left; it is not begun twice."""

    async def main(host: Host) -> None:
        host.gates[A.name] = asyncio.Event()
        impatient = asyncio.ensure_future(host.use(A))
        await breathe()
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        second = asyncio.ensure_future(host.use(A))
        await breathe()
        host.gates[A.name].set()
        assert "a:latest" == await second
        assert ["load a"] == host.events
        # And one that nobody waits for at all stays like any other.
        host.gates[C.name] = asyncio.Event()
        impatient = asyncio.ensure_future(host.use(C))
        await breathe()
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        host.gates[C.name].set()
        await breathe()
        assert {"a", "c"} == set(host.here)

    run(main)


def test_waiter_for_room_that_leaves() -> None:
    """Nothing is loaded, and nothing pushed out, for somebody who has left; who comes next is not held up."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        waiter = asyncio.ensure_future(host.use(B))
        await breathe()
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert "c:latest" == await host.use(C)
        done.set()
        await holder
        assert ["load a", "load c"] == host.events

    run(main)


def test_small_models_pass_a_large_one_that_waits_for_room() -> None:
    """Those that fit beside the model in use are loaded, and push each other out; the large one comes once it fits."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(model("a", 80), done))
        await breathe()
        large = asyncio.ensure_future(host.use(model("l", 50)))
        await breathe()
        for letter in "pqp":
            assert f"{letter}:latest" == await host.use(model(letter, 15))
        assert (["p", "a"], False) == (host.here, large.done())
        done.set()
        await holder
        assert "l:latest" == await large
        assert ["load a", "load p", "unload p", "load q", "unload q", "load p"] == host.events[:6]
        assert ["unload p", "unload a", "load l"] == host.events[6:]

    run(main)


def test_idle_models_stay_until_their_room_suffices() -> None:
    """One that would make no room for the model that waits, since another is in use, is not pushed out for nothing."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        await host.use(C)
        waiter = asyncio.ensure_future(host.use(model("l", 90)))
        await breathe()
        assert "c:latest" == await host.use(C)
        assert ["load a", "load c"] == host.events
        done.set()
        await holder
        assert "l:latest" == await waiter
        assert ["l"] == host.here

    run(main)


def test_loads_that_wait_for_another_never_count_the_same_room() -> None:
    """While one model is being loaded, all others wait; then they come in order, each within the budget."""

    async def main(host: Host) -> None:
        rows = [model(letter, 40) for letter in "pqrs"]
        host.gates[rows[0].name] = asyncio.Event()
        done = asyncio.Event()
        holders = [asyncio.ensure_future(host.hold(row, done)) for row in rows]
        await breathe()
        assert ["load p"] == host.events
        host.gates[rows[0].name].set()
        await breathe()
        assert (["load p", "load q"], 80) == (host.events, sum(item.nbytes for item in host.residency.residents()))
        done.set()
        await asyncio.gather(*holders)
        loads = [event for event in host.events if event.startswith("load")]
        assert ["load p", "load q", "load r", "load s"] == loads
        assert ["s", "r"] == host.here

    run(main)


def test_waiting_for_room_has_an_end() -> None:
    """A model that models in use leave no room is refused in the end; what fits is loaded as ever."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        waiter = asyncio.ensure_future(host.use(B))
        await breathe()
        assert not waiter.done()
        pass_time(10.0)
        with pytest.raises(OverloadedError, match="no memory became free for b:latest within 10 s") as caught:
            await waiter
        assert 503 == caught.value.status
        assert "c:latest" == await host.use(C)
        done.set()
        await holder
        assert "b:latest" == await host.use(B)

    run(main, wait_s=10.0)


def test_waiting_for_another_load_is_not_waiting_for_room() -> None:
    """However long that takes."""

    async def main(host: Host) -> None:
        host.gates[A.name] = asyncio.Event()
        waiters = [asyncio.ensure_future(host.use(row)) for row in (A, B, C)]
        await breathe()
        assert not any(waiter.done() for waiter in waiters)
        host.gates[A.name].set()
        assert ["a:latest", "c:latest"] == await asyncio.gather(*waiters[::2])
        # The one for which the others leave no room is refused once they are in use.
        with pytest.raises(OverloadedError):
            await waiters[1]

    run(main, wait_s=0.0)


def test_whoever_is_patient_waits_for_room_without_end() -> None:
    """Such as the server itself before it is ready; others who want the same model wait with it."""

    async def main(host: Host) -> None:
        async def patiently() -> str:
            async with host.residency.using(B, is_patient=True) as adapter:
                return cast("Shown", adapter).model

        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        # Also if somebody else has waited before.
        waiters = [asyncio.ensure_future(host.use(B))]
        await breathe()
        waiters.append(asyncio.ensure_future(patiently()))
        await breathe()
        pass_time(10.0)
        await breathe()
        assert not any(waiter.done() for waiter in waiters)
        done.set()
        await holder
        assert ["b:latest"] * 2 == await asyncio.gather(*waiters)

    run(main, wait_s=10.0)


def test_patience_does_not_outwait_pinned_models() -> None:
    """A server whose models to preload are pinned and do not fit together says so, instead of never being ready."""

    async def main(host: Host) -> None:
        await host.use(A, keep_alive_s=PINNED)
        with pytest.raises(OverloadedError, match="pinned"):
            async with host.residency.using(B, is_patient=True):
                pass

    run(main)


def test_one_of_two_waiters_leaves() -> None:
    """A waiter that leaves takes nothing from the other one."""

    async def main(host: Host) -> None:
        host.gates[A.name] = asyncio.Event()
        first, second = (asyncio.ensure_future(host.use(A)) for _ in range(2))
        await breathe()
        first.cancel()
        host.gates[A.name].set()
        assert "a:latest" == await second
        assert (["load a"], ["a"]) == (host.events, host.here)

    run(main)


def test_waiter_for_room_hears_of_closing() -> None:
    """Closing gives up what waits for room, and lets go what is loaded."""

    async def main(host: Host) -> None:
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(A, done))
        await breathe()
        waiter = asyncio.ensure_future(host.use(B))
        await breathe()
        await host.residency.close()
        (outcome,) = await asyncio.gather(waiter, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError | OsamdError)
        done.set()
        await holder
        assert ["load a", "unload a"] == host.events

    run(main)


def test_changed_files_are_loaded_again(tmp_path: Path) -> None:
    """A model whose own file was changed is another one; who uses the old one goes on with it."""
    file = tmp_path / "encoder.onnx"
    file.write_bytes(b"one")
    row = Model("own:latest", "sam", {"encoder": Blob(file.as_uri(), "")})

    async def main(host: Host) -> None:
        host.residency._measure = lambda _: 10
        done = asyncio.Event()
        holder = asyncio.ensure_future(host.hold(row, done))
        while not await host.residency.is_loaded(row):
            await breathe()
        file.write_bytes(b"other")
        assert not await host.residency.is_loaded(row)
        await host.use(row)
        assert ["load o", "unload o", "load o"] == host.events
        done.set()
        await holder
        assert ["o"] == host.here

    run(main)


def test_users_errors_pass_through() -> None:
    """What goes wrong in the block is the user's; the model stays and can be pushed out."""

    async def main(host: Host) -> None:
        async def fail() -> None:
            async with host.residency.using(A):
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await fail()
        assert "b:latest" == await host.use(B)

    run(main)


def test_half_of_memory() -> None:
    """The default budget is a sensible part of this machine."""
    assert 2**26 < half_of_memory() < 2**48
