import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from waiting import WAIT_S

from osamd.library.locks import exclusive


def take(path: Path, waiting: threading.Event) -> str:
    """Take a turn; the verdict that was found."""
    with exclusive(path, while_waiting=waiting.set) as turn:
        return turn.verdict


def test_waiters_get_the_result_of_the_earlier_holder(tmp_path: Path) -> None:
    """A holder's result reaches current waiters, not later ones; the same result twice counts as new each time."""
    path = tmp_path / "x.lock"
    with ThreadPoolExecutor(1) as pool:
        for leaves in (True, False, True):
            waiting = threading.Event()
            with exclusive(path, while_waiting=waiting.set) as turn:
                assert not turn.verdict
                later = pool.submit(take, path, waiting)
                assert waiting.wait(WAIT_S)
                if leaves:
                    turn.leave("it failed")
            assert ("it failed" if leaves else "") == later.result(WAIT_S)
    assert not take(path, threading.Event())
