"""Actors that do the shards of a run, over threads instead of Ray: they die, fail, are busy, and are stopped."""

import contextlib
import hashlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import Osamd
from data_sets import PlainAnswers, run_batch, tree, write_photo, write_photos
from waiting import WAIT_S

from osamd.cluster import batch_actors
from osamd.cluster.batch_actors import Crew, Done, OnRay, ShardActor
from osamd.cluster.batch_ray import placement_for
from osamd.dataset.answers import Answers
from osamd.dataset.formats import make_format
from osamd.dataset.local import Machine
from osamd.dataset.planning import Prompts, make_plan
from osamd.dataset.run import Outcome, open_manifest, run
from osamd.dataset.shards import Shards
from osamd.dataset.urls import UrlPath
from osamd.dataset.work import Work
from osamd.errors import InvalidRequestError, UnknownModelError, UnreachableError

PROMPTS = Prompts(everything=True)


class ActorDiedError(Exception):
    """Stands for Ray's."""


class Method:
    """A method of an actor, called on its threads."""

    def __init__(self, threads: ThreadPoolExecutor, call: Callable[..., Any]) -> None:
        self._threads = threads
        self._call = call

    def remote(self, *arguments: Any) -> "Future[Any]":
        """Call it."""
        return self._threads.submit(self._call, *arguments)


class Threads:
    """Stands for Ray's module, with an actor's calls on threads of this process."""

    exceptions = SimpleNamespace(RayActorError=ActorDiedError)

    def __init__(self) -> None:
        self.killed: list[Any] = []

    def actor(self, made: Any) -> Any:
        """An actor around an object."""
        threads = ThreadPoolExecutor(2)
        return SimpleNamespace(**{name: Method(threads, getattr(made, name)) for name in ("open", "work", "stop")})

    def wait(self, asked: "list[Future[Any]]", *, timeout: float) -> Any:
        """The calls that are done, one at a time, as Ray tells them."""
        done, _ = wait(asked, timeout, return_when=FIRST_COMPLETED)
        told = list(done)[:1]
        return told, [call for call in asked if call not in told]

    def get(self, asked: "Future[Any]") -> Any:
        """An answer."""
        return asked.result()

    def kill(self, actor: Any) -> None:
        """Note it."""
        self.killed.append(actor)


class OnThreads:
    """Workers of ``run`` in threads.

    Args:
        out: the output folder.
        make: makes an actor's object.
        count: of actors.
    """

    def __init__(self, out: Path, make: Callable[..., Any] = ShardActor, *, count: int = 2) -> None:
        self._out = out
        self._make = make
        self._count = count
        self.told: list[str] = []
        self.ray = Threads()

    def __call__(self, work: Work, *, stop: threading.Event) -> None:
        """Do the work."""

        def start() -> Any:
            return self.ray.actor(self._make(self._out, work.header, machine=Machine(), at_once=1))

        crew = Crew(self.ray, start, self.told.append)
        for _ in range(self._count):
            crew.add()
        try:
            crew.do(work, stop=stop)
        finally:
            crew.end()


@pytest.fixture(autouse=True)
def _plain_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors answer without a model."""

    @contextlib.contextmanager
    def answers(*_: Any) -> Iterator[Answers]:
        yield PlainAnswers()

    monkeypatch.setattr(batch_actors, "local_answers", answers)
    monkeypatch.setattr(batch_actors, "LOCK_POLL_S", 0.0)


def run_on(workers: Any, photos: Path, out: Path, *, stop: threading.Event | None = None) -> Outcome:
    """A run in all formats with other workers."""
    manifest = open_manifest(out, make_plan([str(photos)], PROMPTS, model="none", digest="", shard_size=2))
    formats = {name: make_format(name, out, manifest.header) for name in ("coco", "yolo", "parquet")}
    return run(manifest, out, formats=formats, workers=workers, stop=stop or threading.Event())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight, one of which is none: four shards."""
    return write_photos(tmp_path / "photos", 7)


@pytest.fixture
def whole(tmp_path: Path, photos: Path) -> dict[str, str]:
    """The files of a run in one process."""
    run_batch(photos, tmp_path / "whole", prompts=PROMPTS, formats=["coco", "yolo", "parquet"])
    return tree(tmp_path / "whole")


def test_actors_write_the_same_bytes_as_one_process(tmp_path: Path, photos: Path, whole: dict[str, str]) -> None:
    """All formats, failures counted."""
    outcome = run_on(OnThreads(tmp_path / "out"), photos, tmp_path / "out")
    assert (True, 8, 1) == (outcome.is_finished, outcome.done, outcome.failed)
    assert whole == tree(tmp_path / "out")


def test_actors_write_to_a_bucket(photos: Path, whole: dict[str, str]) -> None:
    """By URL, as to a folder; one, as two threads cannot read a file in memory at once."""
    out: Any = UrlPath("memory://crew/out")
    assert run_on(OnThreads(out, count=1), photos, out).is_finished
    coco = (out / "annotations.coco.json").read_bytes()
    assert whole["annotations.coco.json"] == hashlib.sha256(coco).hexdigest()


def test_a_quick_actor_does_not_wait_for_a_slow_one(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given the next shard when it answers, however rarely the driver looks for signals."""
    monkeypatch.setattr(batch_actors, "POLL_S", 600.0)
    others = threading.Semaphore(0)

    class Slow(ShardActor):
        def work(self, shard: int) -> Done:
            if shard == 0:
                assert all(others.acquire(timeout=WAIT_S) for _ in range(3))
            done = super().work(shard)
            others.release()
            return done

    assert run_on(OnThreads(tmp_path / "out", Slow), photos, tmp_path / "out").is_finished


def test_the_shard_of_an_actor_that_died_is_done_by_another(
    tmp_path: Path, photos: Path, whole: dict[str, str]
) -> None:
    """It continues behind the photos that are done; of two deaths the run says so twice."""
    deaths = iter(("open", "work"))

    class Mortal(ShardActor):
        def open(self) -> Done:
            self.dies = next(deaths, "")
            if self.dies == "open":
                raise ActorDiedError
            return super().open()

        def work(self, shard: int) -> Done:
            done = super().work(shard)
            if self.dies == "work":
                raise ActorDiedError
            return done

    workers = OnThreads(tmp_path / "out", Mortal)
    outcome = run_on(workers, photos, tmp_path / "out")
    assert (True, 8, 1) == (outcome.is_finished, outcome.done, outcome.failed)
    assert whole == tree(tmp_path / "out")
    assert 2 == len(workers.told)
    # Those that died, in case they were only out of reach, and those that are left.
    assert 4 == len(workers.ray.killed)


def test_actors_that_die_now_and_then_while_they_load_do_not_stop_the_run(tmp_path: Path, photos: Path) -> None:
    """On machines that come and go; three in a row would mean that the model cannot be loaded."""
    loads, killed = iter((True, False) * 3), {0, 1}

    class Mortal(ShardActor):
        def open(self) -> Done:
            if next(loads, False):
                raise ActorDiedError
            return super().open()

        def work(self, shard: int) -> Done:
            if shard in killed:
                killed.remove(shard)
                raise ActorDiedError
            return super().work(shard)

    workers = OnThreads(tmp_path / "out", Mortal, count=1)
    assert run_on(workers, photos, tmp_path / "out").is_finished
    assert 5 == len(workers.told)


def test_a_shard_that_kills_every_actor_stops_the_run(tmp_path: Path, photos: Path) -> None:
    """With its number, instead of for ever."""

    class Mortal(ShardActor):
        def work(self, shard: int) -> Done:
            if shard == 1:
                raise ActorDiedError("out of memory")
            return super().work(shard)

    with pytest.raises(UnreachableError, match=r"3 workers died in shard 1.*out of memory"):
        run_on(OnThreads(tmp_path / "out", Mortal), photos, tmp_path / "out")


def test_errors_that_are_not_a_photos_stop_the_run(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are: of a model that is not there, of a disk that is full, of a folder that is not shared."""

    @contextlib.contextmanager
    def no_model(*_: Any) -> Iterator[Answers]:
        if photos.exists():
            raise UnknownModelError("no such model")
        yield PlainAnswers()

    class Elsewhere(ShardActor):
        def __init__(self, out: Path, *arguments: Any, **options: Any) -> None:
            super().__init__(out / "nowhere", *arguments, **options)

    class Full(ShardActor):
        def work(self, shard: int) -> Done:  # noqa: ARG002
            return Done(error=OSError(28, "No space left on device"))

    with pytest.raises(OSError, match="No space left"):
        run_on(OnThreads(tmp_path / "out", Full), photos, tmp_path / "out")
    with pytest.raises(InvalidRequestError, match="is not shared with a worker's machine"):
        run_on(OnThreads(tmp_path / "out", Elsewhere), photos, tmp_path / "out")
    monkeypatch.setattr(batch_actors, "local_answers", no_model)
    with pytest.raises(UnknownModelError, match="no such model"):
        run_on(OnThreads(tmp_path / "out"), photos, tmp_path / "out")


def test_a_stop_finishes_the_photos_in_hand(tmp_path: Path, photos: Path, whole: dict[str, str]) -> None:
    """The next run continues."""
    stop = threading.Event()

    class Stopping(ShardActor):
        def _row(self, item: Any) -> Any:
            stop.set()
            # Its own: the other actor may hear of it later.
            assert self._stop.wait(WAIT_S)
            return super()._row(item)

    outcome = run_on(OnThreads(tmp_path / "out", Stopping), photos, tmp_path / "out", stop=stop)
    assert not outcome.is_finished
    assert 1 <= outcome.done <= 2
    assert run_on(OnThreads(tmp_path / "out"), photos, tmp_path / "out").is_finished
    assert whole == tree(tmp_path / "out")


def test_a_shard_that_is_locked_is_tried_again_before_it_is_left(
    tmp_path: Path, photos: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a worker that died may outlive it on a network file system."""
    out = tmp_path / "out"
    open_manifest(out, make_plan([str(photos)], PROMPTS, model="none", digest="", shard_size=2))
    other = Shards(out / ".osamd" / "shards").open(1, first=2, count=2)
    assert other is not None
    with monkeypatch.context() as patched:
        patched.setattr(batch_actors, "LOCK_PATIENCE_S", 0.0)
        outcome = run_on(OnThreads(out), photos, out)
    assert ([1], 6, False) == (outcome.busy, outcome.done, outcome.is_finished)

    release = other.close

    class Releasing(ShardActor):
        tries = 0

        def work(self, shard: int) -> Done:
            done = super().work(shard)
            Releasing.tries += 1
            if Releasing.tries == 3:
                release()
            return done

    outcome = run_on(OnThreads(out, Releasing), photos, out)
    assert (True, [], 4) == (outcome.is_finished, outcome.busy, Releasing.tries)
    assert whole == tree(out)


def ray_with(nodes: list[dict[str, float]]) -> Any:
    """Stands for Ray's module, connected to machines with these resources."""
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])


@pytest.mark.parametrize(
    ("nodes", "count", "machine", "expected"),
    [
        ([{"CPU": 2.0}], None, Machine(), (1, 2, 0)),
        ([{"CPU": 2.0}], 2, Machine(), (2, 1, 0)),
        ([{"CPU": 16.0}, {"CPU": 6.0}, {}], None, Machine(), (5, 4, 0)),
        ([{"CPU": 16.0}], None, Machine(threads=1), (16, 1, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}], None, Machine(), (4, 4, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], None, Machine(device="cpu"), (2, 4, 0)),
        ([{"CPU": 2.0}], 3, Machine(device="cuda"), (3, 1, 1)),
    ],
)
def test_how_many_actors_fit(
    nodes: list[dict[str, float]], count: int | None, machine: Machine, expected: tuple[int, int, int]
) -> None:
    """One for each GPU, or as many as the cores allow; machines without cores run none."""
    ray = ray_with(nodes)
    place = placement_for(ray, count=count, machine=machine)
    assert expected == (place.count, place.threads, place.gpus)


@pytest.mark.parametrize(
    ("nodes", "machine", "waits_for"),
    [
        ([{"CPU": 2.0}], Machine(), ""),
        ([{"CPU": 8.0, "GPU": 1.0}], Machine(device="cuda"), ""),
        ([{"CPU": 2.0}], Machine(device="cuda"), "the 2 cores and a GPU that a worker needs"),
        ([{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}], Machine(threads=4), "the 4 cores and a GPU that"),
        ([{"CPU": 8.0}, {"CPU": 4.0}], Machine(threads=16), "the 16 cores that a worker needs"),
        ([{}], Machine(), "the 1 core that"),
    ],
)
def test_a_cluster_without_room_for_a_worker_says_what_it_waits_for(
    nodes: list[dict[str, float]], machine: Machine, waits_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, before the actors are started, which Ray would keep waiting without a word."""
    told: list[str] = []
    crew = on_ray_with(nodes, machine, tmp_path, told.append, monkeypatch, address="ray://cluster:10001")
    with crew:
        assert ([waits_for] if waits_for else []) == [waits_for for one in told if waits_for in one]
    assert bool(waits_for) == bool(told)


def test_a_machine_without_a_gpu_does_not_wait_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None will join it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    crew = on_ray_with([{"CPU": 2.0}], Machine(device="cuda"), tmp_path, print, monkeypatch, address="ray")
    with pytest.raises(InvalidRequestError, match="--device cuda: this machine has no GPU that Ray sees"), crew:
        pass


def on_ray_with(
    nodes: list[dict[str, float]],
    machine: Machine,
    out: Path,
    tell: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    address: str,
) -> contextlib.AbstractContextManager[Crew]:
    """Actors that are never started, on machines with these resources."""

    class Actor:
        def options(self, **_: Any) -> "Actor":
            return self

        def remote(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(open=SimpleNamespace(remote=object))

    ray = ray_with(nodes)
    ray.remote = lambda _: Actor()
    ray.kill = lambda _: None
    monkeypatch.setattr(batch_actors, "connected", lambda *_, **__: contextlib.nullcontext(ray))
    write_photo(out / "photos" / "a.png")
    plan = make_plan([str(out / "photos")], PROMPTS, model="none", digest="", shard_size=2)
    header = open_manifest(out / "out", plan).header
    workers = OnRay(address, out / "out", count=None, machine=machine, at_once=1, tell=tell, prepare=lambda: None)
    return workers.started(header)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "spark"], "--on spark: expected ray, or the address of a cluster such as ray://host:10001"),
        (["--on", "ray://"], "--on ray://: expected ray"),
        (["--on", "ray", "--url", "http://127.0.0.1:1"], "--on and --url cannot be combined"),
        (["--workers", "2"], "--workers needs --on ray"),
    ],
)
def test_arguments_for_ray_that_make_no_sense(arguments: list[str], message: str, osamd: Osamd, tmp_path: Path) -> None:
    """Before anything is written."""
    write_photo(tmp_path / "photos" / "a.png")
    ended = osamd("batch", str(tmp_path / "photos"), "--everything", "--out", str(tmp_path / "out"), *arguments)
    assert (2, True) == (ended.returncode, message in ended.err), ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
def test_without_ray_it_says_how_to_install_it(osamd: Osamd, tmp_path: Path) -> None:
    """The extra's name."""
    write_photo(tmp_path / "photos" / "a.png")
    ended = osamd("batch", str(tmp_path / "photos"), "--everything", "--out", str(tmp_path / "out"), "--on", "ray")
    assert (2, True) == (ended.returncode, "pip install 'osamd[cluster]'" in ended.err), ended.err
