"""Interrupt a run of ``osamd batch`` at every file operation, one after the other; continue it, and compare.

    python tests/kill_points.py FOLDER HOW FORMATS EVERY

HOW is ``kill`` (SIGKILL before the operation), ``cut`` (a write is cut off in the middle, then SIGKILL), ``full`` (the
operation fails, as on a full disk), or ``all`` for each in turn. EVERY is 1 for all operations, 5 for every fifth.
Prints how many it tried. Each run is a forked process, so that a try takes milliseconds.
"""

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from data_sets import PlainAnswers, run_batch, tree, write_boxes, write_photos

from osamd.dataset.formats import make_format  # noqa: F401 - imported before the processes fork
from osamd.dataset.planning import Prompts

AT_ONCE = 2
PHOTOS = 4
WATCHED = frozenset({"os.rename", "os.symlink", "os.mkdir", "os.remove", "os.truncate"})
FULL = 7


class Fault:
    """Counts the operations that change the folder, and strikes at one of them.

    Args:
        out: the folder.
        at: the operation, from 1; 0 only counts.
        how: see above.
    """

    def __init__(self, out: Path, at: int, how: str) -> None:
        self._out = str(out)
        self._at = at
        self._how = how
        self._lock = threading.Lock()
        self.count = 0

    def install(self) -> None:
        """For the rest of this process."""
        write, fsync = os.write, os.fsync

        def watched_write(file: int, data: Any) -> int:
            def cut_off() -> None:
                write(file, bytes(data)[: len(data) // 2])

            if len(data) > 1:
                self._step(cut_off)
            return write(file, data)

        def watched_fsync(fd: Any) -> None:
            self._step()
            fsync(fd)

        os.write, os.fsync = watched_write, watched_fsync
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event in WATCHED) and self._out in str(arguments):
            self._step()

    def _step(self, cut_off: Any = None) -> None:
        with self._lock:
            self.count += 1
            if self.count != self._at:
                # A disk stays full.
                if self._how == "full" and 0 < self._at < self.count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return
            if self._how != "kill" and cut_off is not None:
                cut_off()
            if self._how == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.kill(os.getpid(), signal.SIGKILL)


def forked(photos: Path, out: Path, log: Path, formats: tuple[str, ...], fault: Fault | None) -> tuple[int, int]:
    """A run in a process of its own; returns its exit code and the operations it counted."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if fault is not None:
                fault.install()
            prompts = Prompts(boxes_from=str(photos.parent / "boxes.json"))
            run_batch(photos, out, prompts=prompts, answers=PlainAnswers(log).opened, formats=formats, at_once=AT_ONCE)
            code = 0
        except OSError as error:
            code = FULL if error.errno == errno.ENOSPC else 1
        finally:
            os.writev(theirs, [str(fault.count if fault else 0).encode()])
            os._exit(code)
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    count = os.read(ours, 100)
    os.close(ours)
    return os.waitstatus_to_exitcode(status), int(count or 0)


def main(folder: Path, how: str, formats: tuple[str, ...], every: int) -> int:
    """Returns how many points were tried; raises at the first difference."""
    kinds = ("kill", "cut", "full") if how == "all" else (how,)
    photos = write_photos(folder / "photos", PHOTOS)
    write_boxes(folder / "boxes.json", photos)
    whole, count = forked(photos, folder / "whole", folder / "log", formats, Fault(folder / "whole", 0, "kill"))
    assert whole == 0
    expected = tree(folder / "whole")
    points = range(1, count + 1, every)
    for turn, at in enumerate(points):
        how = kinds[turn % len(kinds)]
        out, log = folder / f"out{at}", folder / f"log{at}"
        code, _ = forked(photos, out, log, formats, Fault(out, at, how))
        # The order of two threads differs between runs, so the last points may not be reached.
        assert code == (FULL if how == "full" else -signal.SIGKILL) or at > count - 5, (at, code)
        assert forked(photos, out, log, formats, None)[0] == 0, at
        found = tree(out)
        assert found == expected, (at, {name for name in found | expected if found.get(name) != expected.get(name)})
        asked = log.read_text().splitlines()
        assert len(asked) <= PHOTOS + AT_ONCE, (at, len(asked))
    return len(points)


if __name__ == "__main__":
    sys.stdout.write(str(main(Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3].split(",")), int(sys.argv[4]))))
