"""Decode images in separate processes, which are killed if an image takes too much: see docs/decisions/0013."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import osamd
from osamd.errors import (
    DeadlineExceededError,
    ImageTooLargeError,
    InvalidImageError,
    OverloadedError,
    RequestError,
    ShuttingDownError,
)
from osamd.pixels.decoder_messages import KEPT_BYTES, REQUEST, SIZE, NonsenseError, receive
from osamd.types import ByteArray, Picture, WantedSize

MOST_REASON_CHARS: Final = 500

# A repaired file is opened again, and may then have another size.
MOST_QUESTIONS: Final = 2
# Larger images are decoded one at a time, so that memory does not grow with the number of threads: 64 million pixels
# take up to a gigabyte.
LARGE_PIXELS: Final = 16_000_000

# Idle processes to keep, at most as many as images are prepared at once; each takes 20 MB, and 45 to 75 after photos.
MOST_IDLE: Final = 4
# Wall-clock limit for a process that neither computes nor answers, e.g. when swapping: seconds, or times the CPU limit.
PATIENCE_S: Final = 30.0
PATIENCE: Final = 10.0
ERRORS: Final[dict[str, type[RequestError]]] = {kind.code: kind for kind in (InvalidImageError, ImageTooLargeError)}
PROGRAM: Final = """
import sys
sys.path[:] = {path!r}
from osamd.pixels.decoder_process import main
main({channel}, {room}, cpu_s={cpu_s})
"""
CHANNELS: Final = 3
MOST_SIDE: Final = 2**32
# The server's environment has its keys in it.
ENVIRONMENT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
# Keep the memory of a photo of usual size for the next one; return that of larger ones to the system.
ALLOCATOR: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "33554432",
    # Pixels are converted by one thread; NumPy would start one per core.
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Child:
    """A process, the socket to it, and the file it writes pixels to."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    room: IO[bytes]

    def end(self) -> int:
        """Kill the process if it still runs; return its exit status."""
        self.process.kill()
        self.channel.close()
        self.room.close()
        return self.process.wait()


class Decoder:
    """Decodes images like ``decode_image``, in processes that are killed if an image takes too much CPU time or memory.

    Each call has a process to itself; processes are started on demand and reused. Thread-safe.

    Args:
        cpu_s: seconds of CPU time for one image.
    """

    def __init__(self, *, cpu_s: float) -> None:
        self._cpu_s = cpu_s
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: list[_Child] = []
        self._is_closed = False
        self._large = threading.Lock()
        self._starting = threading.Lock()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why no image can be decoded: no process runs, and none could be started; None otherwise."""
        return self._problem

    def start(self) -> None:
        """Start a process ahead, so that the first image need not wait for it; ``problem`` tells if that failed.

        Does nothing while another thread does it.
        """
        if not self._starting.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(OverloadedError, ShuttingDownError):
                self._give_back(self._take())
        finally:
            self._starting.release()

    def __call__(self, data: bytes, *, max_pixels: int, wanted: WantedSize | None = None) -> Picture:
        """Decode an image; arguments and result as for ``decode_image``.

        Raises:
            InvalidImageError: not an image, a corrupt one, or one that takes too much CPU time or crashes the decoder.
            ImageTooLargeError: too many pixels, or too much memory for that many.
            MemoryError: the system ran out of memory.
            OverloadedError: a process could not be started.
            DeadlineExceededError: the process did not answer.
            ShuttingDownError: the decoder was closed.
        """
        child = self._take()
        if self._is_closed:
            # Closed in the meantime.
            self._drop(child)
            raise _shutting_down()
        try:
            answer = self._ask(child, data, max_pixels, wanted)
        except (EOFError, ConnectionError):
            raise self._what_ended(child) from None
        except NonsenseError:
            # The image may have compromised the process.
            self._drop(child)
            raise _crashed() from None
        except TimeoutError:
            self._drop(child)
            raise DeadlineExceededError("decoding the image timed out; try again later") from None
        except BaseException:
            self._drop(child)
            raise
        self._give_back(child)
        if isinstance(answer, RequestError):
            raise answer
        return answer

    def close(self) -> None:
        """End all processes; images being decoded fail with ``ShuttingDownError``."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for child in self._busy:
                child.process.kill()
        for child in idle:
            child.end()

    def _ask(self, child: _Child, data: bytes, max_pixels: int, wanted: WantedSize | None) -> Picture | RequestError:
        channel = child.channel
        channel.sendall(REQUEST.pack(max_pixels, len(data)))
        channel.sendall(data)
        message = receive(channel)
        with contextlib.ExitStack() as stack:
            for number in range(MOST_QUESTIONS):
                if "size" not in message:
                    break
                height, width = _sizes(message["size"], 2)
                if number == 0 and height * width > LARGE_PIXELS:
                    stack.enter_context(self._large)
                rows, columns = (height, width) if wanted is None else wanted(height=height, width=width)
                channel.sendall(SIZE.pack(rows, columns))
                message = receive(channel)
            if "error" in message:
                return _told(message, max_pixels)
            return _picture(child, message, max_pixels)

    def _take(self) -> _Child:
        with self._lock:
            if self._is_closed:
                raise _shutting_down()
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    self._busy.append(child)
                    return child
                child.end()
        try:
            child = _spawned(self._cpu_s)
        except OverloadedError as error:
            with self._lock:
                if not (self._busy or self._idle):
                    self._problem = str(error)
            raise
        with self._lock:
            self._problem = None
            self._busy.append(child)
        return child

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            is_kept = not self._is_closed and len(self._idle) < MOST_IDLE
            if is_kept:
                self._busy.remove(child)
                self._idle.append(child)
        if not is_kept:
            self._drop(child)

    def _drop(self, child: _Child) -> int:
        with self._lock:
            self._busy.remove(child)
        return child.end()

    def _what_ended(self, child: _Child) -> Exception:
        """The error for a process that ended without an answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It has closed its socket, so it is about to end.
            child.process.wait(PATIENCE_S)
        status = self._drop(child)
        if self._is_closed:
            return _shutting_down()
        if status == -signal.SIGPROF:
            return InvalidImageError(
                f"decoding exceeded the limit of {self._cpu_s:g} s of CPU time:"
                " send a smaller image or a simpler format, such as baseline JPEG",
                field="image",
            )
        if status == -signal.SIGKILL:
            return MemoryError("the decoding process was killed, probably by the out-of-memory killer")
        if status < 0:
            return _crashed()
        return RuntimeError(f"the decoding process exited with status {status}")


def _spawned(cpu_s: float) -> _Child:
    with contextlib.ExitStack() as on_failure:
        try:
            room = on_failure.enter_context(_nameless_file())
            ours, theirs = socket.socketpair()
            on_failure.enter_context(ours)
            ours.settimeout(max(PATIENCE_S, PATIENCE * cpu_s))
            with theirs:
                process = _started(theirs.fileno(), room.fileno(), cpu_s)
        except OSError as error:
            raise OverloadedError(f"could not start a process to decode images: {error.strerror}") from error
        on_failure.pop_all()
    return _Child(process, ours, room)


def _started(channel: int, room: int, cpu_s: float) -> subprocess.Popen[bytes]:
    package = str(Path(osamd.__file__).parents[1])
    # Entries may be relative paths or zip files.
    path = [os.path.abspath(entry) for entry in [*sys.path, package]]  # noqa: PTH100
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, *flags, "-c", PROGRAM.format(path=path, channel=channel, room=room, cpu_s=cpu_s)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[channel, room],
        cwd="/",
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | ALLOCATOR,
    )


def _nameless_file() -> IO[bytes]:
    """A file of ``KEPT_BYTES`` in memory; without memfd, a temporary file, which mostly stays in the page cache."""
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("osamd-pixels"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    file.truncate(KEPT_BYTES)
    return file


def _picture(child: _Child, message: dict[str, Any], max_pixels: int) -> Picture:
    rows, columns, channels = _sizes(message.get("shape"), 3)
    rest = message.get("picture")
    if channels != CHANNELS or rows * columns > max_pixels or not isinstance(rest, dict):
        raise NonsenseError
    told: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in rest.items()}
    return Picture(pixels=_pixels(child.room, rows, columns), **told)


def _sizes(values: object, count: int) -> tuple[int, ...]:
    """Check that a process sent this many positive numbers."""
    if not isinstance(values, list) or len(values) != count:
        raise NonsenseError
    if not all(isinstance(value, int) and 0 < value < MOST_SIDE for value in values):
        raise NonsenseError
    return tuple(values)


def _pixels(room: IO[bytes], rows: int, columns: int) -> ByteArray:
    """Copy the file's content, and shrink the file to its initial size."""
    import numpy as np

    pixels = np.empty((rows, columns, CHANNELS), np.uint8)
    view = pixels.data.cast("B")
    read = 0
    while read < len(view):
        count = os.preadv(room.fileno(), [view[read:]], read)
        if count == 0:
            raise NonsenseError
        read += count
    if len(view) > KEPT_BYTES:
        room.truncate(KEPT_BYTES)
    return pixels


def _told(message: dict[str, Any], max_pixels: int) -> RequestError:
    kind = ERRORS.get(message["error"])
    if kind is None:
        return ImageTooLargeError(
            f"decoding this image takes more memory than {max_pixels:,} pixels need", field="image"
        )
    return kind(str(message["message"])[:MOST_REASON_CHARS], field="image")


def _crashed() -> InvalidImageError:
    return InvalidImageError("the image is corrupt: it crashed the decoder", field="image")


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the server is shutting down")
