"""Notes for how long other code held the interpreter lock."""

import threading
import time
from typing import Self

TICK_S = 0.001


class Ticker:
    """A thread that wants to run every millisecond, and notes how long it could not.

    On a busy machine it is also late because the kernel runs other processes. So a pause counts only as far as this
    process has used the CPU during it.

    Attributes:
        longest_s: the longest pause, without the one asked for.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _tick(self) -> None:
        last, last_cpu = time.perf_counter(), time.process_time()
        while not self._ended.wait(TICK_S):
            now, cpu = time.perf_counter(), time.process_time()
            self.longest_s = max(self.longest_s, min(now - last - TICK_S, cpu - last_cpu))
            last, last_cpu = now, cpu
