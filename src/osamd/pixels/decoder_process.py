"""The process that decodes images for a ``Decoder``, which starts it, bounds it and survives it.

It has nothing that a hostile image could use: no environment, no open files but its channel, no files it may write,
and limits of memory and CPU time for each image, both enforced by the kernel.
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

# What an image may take beside the process itself and twice its own bytes. WebP takes most, 20 bytes a pixel; the rest
# is for decoders' own tables.
BYTES_A_PIXEL: Final = 24
TABLES_BYTES: Final = 256 * 1024 * 1024
# Steps that it stands back behind threads that answer clicks, as encoders do.
STEPS_BACK: Final = 5
# Where memory runs out, the kernel ends this process before any other.
OOM_SCORE: Final = "1000"
# Modules that Pillow and numpy import late need a few.
OPEN_FILES: Final = 32


class _Room:
    """The file in memory in which the parent looks for pixels. The start of it is mapped, and kept, for all images."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = mmap.mmap(descriptor, KEPT_BYTES)

    def allocate(self, shape: tuple[int, int, int]) -> ByteArray:
        """An array at its start; the file grows where that does not do."""
        size = shape[0] * shape[1] * shape[2]
        mapped = self._kept
        if size > KEPT_BYTES:
            os.ftruncate(self._descriptor, size)
            mapped = mmap.mmap(self._descriptor, size)
        return np.frombuffer(mapped, np.uint8, size).reshape(shape)


def serve(channel: socket.socket, room: int, *, cpu_s: float) -> None:
    """Decode one image after another until the parent closes the channel or ends.

    Args:
        channel: to the parent.
        room: descriptor of a file of ``KEPT_BYTES``.
        cpu_s: what an image may take before this process is ended.
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
            # SIGPROF, whose default is to end the process, comes when that much has been computed, in native code too.
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            send(channel, _answer(data, max_pixels, _Question(channel, requests), allocate))
            signal.setitimer(signal.ITIMER_PROF, 0)
            del data


class _Question:
    """Tells the parent an image's size, once, and waits until it may be decoded and how fine."""

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
        # Some formats are decoded into the array, and never smaller than they are.
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
    """All of a picture but its pixels."""
    return {field.name: getattr(picture, field.name) for field in fields(picture) if field.name != "pixels"}


def _address_space() -> int:
    """Bytes of addresses this process has; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * mmap.PAGESIZE
    return 0


def _limit(kind: int, value: int) -> None:
    """Set a limit, where the system has it."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def _step_back() -> None:
    """Give up what decoding does not need, and let the parent alone say when to stop."""
    # Sent to all processes of a terminal or a service; the parent finishes what runs first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(STEPS_BACK)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, "ascii")
    # A core dump would leave somebody's photo on the disk.
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    # C libraries would print, and a server that turns warnings into errors is not meant to refuse images.
    warnings.simplefilter("ignore")


def main(channel: int, room: int, *, cpu_s: float) -> None:
    """Serve the parent on an inherited socket and file."""
    _step_back()
    with socket.socket(fileno=channel) as opened, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(opened, room, cpu_s=cpu_s)
