import os
import threading
import weakref

import pytest
from waiting import WAIT_S

from osamd.daemon_thread import on_daemon_thread
from osamd.errors import OverloadedError
from osamd.runtime.background import STEPS_BACK, Background


def niceness() -> int:
    """Of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_work_runs_in_order_on_one_low_priority_thread() -> None:
    """It has stepped back, and the caller has not."""
    own = niceness()
    background = Background("osamd-test")
    names = [background.run(lambda: (threading.current_thread().name, niceness())) for _ in range(3)]
    background.close()

    assert [("osamd-test", own + STEPS_BACK)] * 3 == names
    assert own == niceness()


def test_a_process_that_may_start_no_more_threads_is_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is 503 and not 500; it works again as soon as it may."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    background = Background("osamd-test")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", fail)
        with pytest.raises(OverloadedError, match="can't start new thread: too many threads"):
            background.run(lambda: 1)
        with pytest.raises(OverloadedError):
            on_daemon_thread(lambda: 1, "osamd-test")
    assert (1, 1) == (background.run(lambda: 1), on_daemon_thread(lambda: 1, "osamd-test").result(WAIT_S))
    background.close()


def test_child_threads_inherit_the_low_priority() -> None:
    """ONNX Runtime's own threads are made by the thread that makes the session."""
    found: list[int] = []

    def start_another() -> None:
        other = threading.Thread(target=lambda: found.append(niceness()))
        other.start()
        other.join()

    background = Background("osamd-test")
    background.run(start_another)
    background.close()

    assert [niceness() + STEPS_BACK] == found


def test_hung_work_does_not_block_other_work() -> None:
    """A hung inference keeps its thread; the next one gets another, and that one is used again."""
    release, begun = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait()

    background = Background("osamd-test-hung")
    giver = threading.Thread(target=background.run, args=(hang,))
    giver.start()
    begun.wait()
    threads = {background.run(threading.get_ident) for _ in range(3)}
    release.set()
    giver.join()
    background.close()

    assert 1 == len(threads)


def test_caller_gets_the_exception() -> None:
    """An error is raised where the work was given, and the thread goes on."""

    def fail() -> None:
        raise ValueError("in the work")

    background = Background("osamd-test")
    with pytest.raises(ValueError, match="in the work"):
        background.run(fail)

    assert 7 == background.run(lambda: 7)
    background.close()


def test_a_closed_thread_ends_after_its_work_and_keeps_nothing_alive() -> None:
    """What was run may be let go at once, and the thread goes."""

    class Value:
        pass

    background = Background("osamd-test-ends")
    value = background.run(Value)
    seen = weakref.ref(value)
    del value
    background.run(lambda: None)

    assert seen() is None
    background.close()
    for thread in threading.enumerate():
        if thread.name == "osamd-test-ends":
            thread.join(WAIT_S)
    assert "osamd-test-ends" not in {thread.name for thread in threading.enumerate()}
