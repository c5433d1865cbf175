import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from waiting import WAIT_S

from osamd.errors import (
    ModelPullingError,
    ModelUnavailableError,
    OsamdError,
    PullError,
    PullForbiddenError,
    ShuttingDownError,
)
from osamd.events import Event, ModelPulled, PullFailed, PullProgress, PullStarted
from osamd.library.catalog import Blob, Model
from osamd.library.pulling import LISTENER_CAPACITY, Pulling
from osamd.library.pulls import OnProgress
from osamd.library.store import Store


def model(name: str) -> Model:
    """A row."""
    blob = Blob("https://example.org/x", "ab" * 32)
    return Model(f"{name}:latest", "sam", {"encoder": blob}, license="MIT", license_url="https://example.org/l")


A, B = model("a"), model("b")


@dataclass
class SlowStore:
    """A store whose pulls a test advances step by step; each step reports a percentage."""

    here: set[str] = field(default_factory=set)
    pulled: list[str] = field(default_factory=list)
    steps: int = 2
    failing: bool = False
    started: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def is_present(self, row: Model) -> bool:
        """Whether it was pulled."""
        return row.name in self.here

    def paths(self, row: Model) -> dict[str, Path]:
        """As the real store raises it."""
        if row.name not in self.here:
            raise ModelUnavailableError(f"{row.name} is not on this server", field="model")
        return {}

    def pull(self, row: Model, on_progress: OnProgress | None, *, stop: threading.Event) -> None:
        """Tell steps, wait to be let on or stopped, succeed or fail."""
        assert on_progress is not None
        self.pulled.append(row.name)
        for step in range(self.steps):
            on_progress(PullProgress(row.name, "encoder", "ab" * 32, 100, step, "downloading"))
        self.started.set()
        while not self.go_on.wait(0.01):
            if stop.is_set():
                raise ShuttingDownError("stopped")
        if self.failing:
            raise PullError("no source has it")
        self.here.add(row.name)


@dataclass
class Host:
    """Pulling over a slow store."""

    store: SlowStore
    arrivals: Pulling
    events: list[Event]

    def happened(self, kind: type[Event]) -> list[Event]:
        """Events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def started(self) -> None:
        """Return when a pull is under way and its news have arrived."""
        assert await asyncio.to_thread(self.store.started.wait, WAIT_S)
        await asyncio.sleep(0.01)


def run(
    main: Callable[[Host], Coroutine[Any, Any, None]],
    *,
    policy: Literal["auto", "never"] = "auto",
    allowed: frozenset[str] = frozenset(),
    wait_s: float = WAIT_S,
) -> None:
    """Run a test's coroutine; nothing may go wrong unseen on the loop."""

    async def whole() -> None:
        problems: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        store, events = SlowStore(), list[Event]()
        arrivals = Pulling(cast("Store", store), policy=policy, allowed=allowed, wait_s=wait_s, emit=events.append)
        try:
            await asyncio.wait_for(main(Host(store, arrivals, events)), WAIT_S)
        finally:
            await arrivals.close()
        await asyncio.sleep(0)
        assert not problems

    asyncio.run(whole())


async def collect(host: Host, row: Model) -> list[PullProgress]:
    """All news of a pull."""
    return [progress async for progress in host.arrivals.follow(row)]


def test_present_model_is_not_pulled() -> None:
    """What is here costs a look."""

    async def main(host: Host) -> None:
        host.store.here.add(A.name)
        await host.arrivals.bring(A)
        assert not host.store.pulled
        assert not host.events

    run(main)


def test_waiters_share_one_pull() -> None:
    """All callers wait for the same pull; its events are emitted once, the licence first."""

    async def main(host: Host) -> None:
        waiters = [asyncio.ensure_future(host.arrivals.bring(A)) for _ in range(3)]
        followers = [asyncio.ensure_future(collect(host, A)) for _ in range(2)]
        await host.started()
        host.store.go_on.set()
        await asyncio.gather(*waiters)
        for news in await asyncio.gather(*followers):
            assert [0, 1] == [progress.completed for progress in news]
        assert [A.name] == host.store.pulled
        assert [PullStarted(A.name, "MIT", "https://example.org/l")] == host.events[:1]
        assert [ModelPulled(A.name)] == host.events[-1:]

    run(main)


def test_pull_continues_without_waiters() -> None:
    """A pull completes even if all waiters and followers leave."""

    async def main(host: Host) -> None:
        tasks = [asyncio.ensure_future(host.arrivals.bring(A)), asyncio.ensure_future(collect(host, A))]
        await host.started()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        host.store.go_on.set()
        while A.name not in host.store.here or not host.happened(ModelPulled):
            await asyncio.sleep(0.01)
        await host.arrivals.bring(A)
        assert [A.name] == host.store.pulled

    run(main)


def test_waiting_for_a_pull_times_out() -> None:
    """After the wait the error gives the progress and asks to retry; the pull continues and can be joined again."""

    async def main(host: Host) -> None:
        with pytest.raises(ModelPullingError, match="encoder: 1 % of 100 bytes"):
            await host.arrivals.bring(A)
        with pytest.raises(ModelPullingError):
            await host.arrivals.bring(A)
        assert [A.name] == host.store.pulled

    run(main, wait_s=0.1)


def test_patient_callers_wait_without_limit() -> None:
    """Who can wait, as the start of a server can, gets the model however long it takes."""

    async def main(host: Host) -> None:
        patient = asyncio.ensure_future(host.arrivals.bring(A, is_patient=True))
        with pytest.raises(ModelPullingError):
            await host.arrivals.bring(A)
        host.store.go_on.set()
        await patient

    run(main, wait_s=0.05)


def test_failure_reaches_all_waiters_and_the_next_pull_retries() -> None:
    """Everybody hears why a pull failed, and so does the log; the next one begins anew."""

    async def main(host: Host) -> None:
        host.store.failing = True
        tasks = [asyncio.ensure_future(host.arrivals.bring(A)), asyncio.ensure_future(collect(host, A))]
        await host.started()
        host.store.go_on.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [PullError] * 2 == [type(outcome) for outcome in outcomes]
        assert [PullFailed(A.name, "no source has it")] == host.happened(PullFailed)
        host.store.failing = False
        await host.arrivals.bring(A)
        assert [A.name] * 2 == host.store.pulled

    run(main)


def test_failure_without_waiters_is_not_reported_as_unretrieved() -> None:
    """A pull that fails without waiters is logged, and asyncio does not report an unretrieved exception."""

    async def main(host: Host) -> None:
        host.store.failing = True
        task = asyncio.ensure_future(host.arrivals.bring(A))
        await host.started()
        task.cancel()
        host.store.go_on.set()
        while not host.happened(PullFailed):
            await asyncio.sleep(0.01)

    run(main)


def test_models_are_pulled_side_by_side() -> None:
    """A model on its way does not hold up another one."""

    async def main(host: Host) -> None:
        tasks = [asyncio.ensure_future(host.arrivals.bring(row)) for row in (A, B)]
        while {A.name, B.name} != set(host.store.pulled):
            await asyncio.sleep(0.01)
        host.store.go_on.set()
        await asyncio.gather(*tasks)

    run(main)


@pytest.mark.parametrize(
    ("policy", "allowed", "may"),
    [
        ("auto", frozenset(), True),
        ("auto", frozenset({A.name}), True),
        ("auto", frozenset({B.name}), False),
        ("never", frozenset(), False),
        ("never", frozenset({A.name}), False),
    ],
)
def test_pull_policy_and_allow_list_are_enforced(
    policy: Literal["auto", "never"], allowed: frozenset[str], *, may: bool
) -> None:
    """``never`` forbids every pull, a list every pull of other models; what is here may be used all the same."""

    async def main(host: Host) -> None:
        host.store.go_on.set()
        assert may == host.arrivals.may_pull(A)
        if may:
            await host.arrivals.bring(A)
            return
        with pytest.raises(ModelUnavailableError):
            await host.arrivals.bring(A)
        with pytest.raises(PullForbiddenError):
            await collect(host, A)
        assert not host.store.pulled
        host.store.here.add(A.name)
        await host.arrivals.bring(A)
        assert not host.store.pulled

    run(main, policy=policy, allowed=allowed)


def test_model_pulled_by_another_process_is_used() -> None:
    """If pulls are forbidden, a model that another process has just pulled is used."""

    async def main(host: Host) -> None:
        host.store.is_present = lambda row: False  # type: ignore[method-assign] # noqa: ARG005
        host.store.here.add(A.name)
        host.store.go_on.set()
        await host.arrivals.bring(A)
        assert not host.store.pulled

    run(main, policy="never")


def test_stopping_ends_all_waits() -> None:
    """When the server stops, each waiter hears it at once, and nothing is left running."""

    async def main(host: Host) -> None:
        tasks = [asyncio.ensure_future(host.arrivals.bring(A)), asyncio.ensure_future(collect(host, A))]
        await host.started()
        host.arrivals.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [ShuttingDownError] * 2 == [type(outcome) for outcome in outcomes]

    run(main)


def test_closing_ends_all_waits() -> None:
    """Closing does the same, also for those whose pull had not begun, and refuses later ones."""

    async def main(host: Host) -> None:
        rows = [model(letter) for letter in "pqrs"]
        tasks = [asyncio.ensure_future(host.arrivals.bring(row)) for row in rows]
        await host.started()
        await host.arrivals.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [ShuttingDownError] * len(rows) == [type(outcome) for outcome in outcomes]
        with pytest.raises(ShuttingDownError):
            await host.arrivals.bring(A)

    run(main)


def test_slow_listener_loses_the_oldest_progress() -> None:
    """A slow listener loses the oldest updates, but always gets the end."""

    async def main(host: Host) -> None:
        host.store.steps = 3 * LISTENER_CAPACITY
        news = host.arrivals.follow(A)
        first = asyncio.ensure_future(anext(news))
        await host.started()
        host.store.go_on.set()
        await host.arrivals.bring(A)
        await first
        rest = [progress.completed async for progress in news]
        assert len(rest) <= LISTENER_CAPACITY
        assert host.store.steps - 1 == rest[-1]

    run(main)


def test_bug_is_not_reported_as_a_failed_pull() -> None:
    """A bug in the store is not reported as a failed pull."""

    async def main(host: Host) -> None:
        def broken(*_: object, **__: object) -> None:
            raise KeyError("bug")

        host.store.pull = broken  # type: ignore[method-assign]
        with pytest.raises(KeyError):
            await host.arrivals.bring(A)
        assert not host.happened(PullFailed)
        assert not issubclass(KeyError, OsamdError)

    run(main)


def test_closing_does_not_wait_for_a_source_that_hangs() -> None:
    """A pull that does not stop is abandoned after the time limit, and its waiters return."""

    async def main(host: Host) -> None:
        go_on, started = threading.Event(), threading.Event()

        def pull(_: Model, __: OnProgress | None, *, stop: threading.Event) -> None:  # noqa: ARG001 - the store's own
            started.set()
            go_on.wait()

        host.store.pull = pull  # type: ignore[method-assign,assignment]
        task = asyncio.ensure_future(host.arrivals.bring(A))
        assert await asyncio.to_thread(started.wait, WAIT_S)
        try:
            assert not await host.arrivals.close(patience_s=0.01)
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, ShuttingDownError)
        finally:
            go_on.set()

    run(main)
