"""The process that decodes images for a ``Decoder``, which starts it, limits it and survives its crashes.

It has little that a hostile image could exploit: no environment, no open files except its socket and the file for the
pixels, and memory and CPU limits for each image, enforced by the kernel. It is no sandbox: it runs as the same user.
"""

import contextlib
import mmap
import os
import resource
import signal
import socket
import warnings
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from osamd.errors import OsamdError
from osamd.pixels.decoder_messages import KEPT_BYTES, MEMORY_RAN_OUT, REQUEST, SIZE, send
from osamd.pixels.images import NewArray, decode_image
from osamd.types import ByteArray, Picture

# Memory for an image, on top of the process itself and twice the encoded bytes. WebP takes most, 20 bytes a pixel; the
# rest is for decoders' tables.
BYTES_A_PIXEL: Final = 24
TABLES_BYTES: Final = 256 * 1024 * 1024
# The nice value, so that threads that answer clicks run first; as for encoders.
STEPS_BACK: Final = 5
# When memory runs out, the kernel kills this process before any other.
OOM_SCORE: Final = "1000"
# A few, for modules that Pillow and NumPy import late.
OPEN_FILES: Final = 32


class _Room:
    """The memory file in which the parent reads pixels. Its start stays mapped between images."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = mmap.mmap(descriptor, KEPT_BYTES)

    def allocate(self, shape: tuple[int, int, int]) -> ByteArray:
        """An array at its start; the file grows if needed."""
        size = shape[0] * shape[1] * shape[2]
        mapped = self._kept
        if size > KEPT_BYTES:
            os.ftruncate(self._descriptor, size)
            mapped = mmap.mmap(self._descriptor, size)
        return np.frombuffer(mapped, np.uint8, size).reshape(shape)


def serve(channel: socket.socket, room: int, *, cpu_s: float) -> None:
    """Decode one image after another until the parent closes the socket or ends.

    Args:
        channel: socket to the parent.
        room: descriptor of a file of ``KEPT_BYTES``.
        cpu_s: CPU time limit of an image, after which this process is killed.
    """
    own_bytes = _address_space()
    allocate = _Room(room).allocate
    with channel.makefile("rb") as requests:
        while head := requests.read(REQUEST.size):
            max_pixels, length = REQUEST.unpack(head)
            data = requests.read(length)
            if len(data) < length:
                return
            _limit(resource.RLIMIT_AS, own_bytes + 2 * length + BYTES_A_PIXEL * max_pixels + TABLES_BYTES)
            # SIGPROF is sent after this much CPU time, in native code as well; by default it ends the process.
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            send(channel, _answer(data, max_pixels, _Question(channel, requests), allocate))
            signal.setitimer(signal.ITIMER_PROF, 0)
            del data


class _Question:
    """Sends an image's size to the parent, once, and waits for the permission to decode it and the size needed."""

    def __init__(self, channel: socket.socket, requests: IO[bytes]) -> None:
        self._channel = channel
        self._requests = requests
        self.is_answered = False

    def __call__(self, *, height: int, width: int) -> tuple[int, int]:
        send(self._channel, {"size": [height, width]})
        rows, columns = SIZE.unpack(self._requests.read(SIZE.size))
        self.is_answered = True
        return rows, columns


def _answer(data: bytes, max_pixels: int, question: _Question, allocate: NewArray) -> dict[str, Any]:
    def allocate_when_asked(shape: tuple[int, int, int]) -> ByteArray:
        # Some formats are decoded into the array at full size.
        if not question.is_answered:
            question(height=shape[0], width=shape[1])
        return allocate(shape)

    try:
        picture = decode_image(data, max_pixels=max_pixels, wanted=question, allocate=allocate_when_asked)
    except MemoryError:
        return {"error": MEMORY_RAN_OUT}
    except OsamdError as error:
        return {"error": error.code, "message": str(error)}
    return {"picture": _told(picture), "shape": picture.pixels.shape}


def _told(picture: Picture) -> dict[str, Any]:
    """Everything about a picture except its pixels."""
    return {field.name: getattr(picture, field.name) for field in fields(picture) if field.name != "pixels"}


def _address_space() -> int:
    """Address space of this process in bytes; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * mmap.PAGESIZE
    return 0


def _limit(kind: int, value: int) -> None:
    """Set a limit, if the system supports it."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def _step_back() -> None:
    """Drop rights that decoding does not need, and ignore signals: only the parent stops this process."""
    # Sent to all processes of a terminal or service; the parent finishes running requests first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(STEPS_BACK)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, "ascii")
    # A core dump would leave a user's photo on the disk.
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    # C libraries would print, and a server that turns warnings into errors must not reject images because of them.
    warnings.simplefilter("ignore")


def main(channel: int, room: int, *, cpu_s: float) -> None:
    """Serve the parent over an inherited socket and file."""
    _step_back()
    with socket.socket(fileno=channel) as opened, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(opened, room, cpu_s=cpu_s)
