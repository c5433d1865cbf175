"""Images decoded in processes that end when an image takes too much."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded
from PIL import Image
from waiting import WAIT_S

from osamd.errors import ImageTooLargeError, InvalidImageError, OverloadedError, ShuttingDownError
from osamd.pixels.decoder import LARGE_PIXELS, MOST_IDLE, Decoder
from osamd.pixels.decoder_messages import KEPT_BYTES
from osamd.pixels.decoder_process import BYTES_A_PIXEL
from osamd.pixels.images import decode_image
from osamd.types import Picture

MAX_PIXELS = 64_000_000
# Far more than any of these images takes, on any machine.
PLENTY_S = 60.0
ORPHANED = """
import os, sys
from osamd.pixels.decoder import Decoder
decoder = Decoder(cpu_s=60.0)
decoder.start()
print(decoder._idle[0].process.pid, flush=True)
sys.stdin.read()
"""

TAKEN_OVER = """
import socket, struct
channel = socket.socket(fileno={channel})
channel.recv(1)
channel.sendall(struct.pack("!I", len(SAID)) + SAID)
while channel.recv(65536):
    pass
"""


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """One for the tests that leave it as it is."""
    with contextlib.closing(Decoder(cpu_s=PLENTY_S)) as opened:
        yield opened


def noise(width: int, height: int) -> Image.Image:
    """A picture in which no two pixels are alike."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def assert_same(expected: Picture, picture: Picture) -> None:
    """All that a picture says, and its pixels."""
    for field in fields(Picture):
        if field.name != "pixels":
            assert getattr(expected, field.name) == getattr(picture, field.name)
    assert np.array_equal(expected.pixels, picture.pixels)
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_pixels_match_in_process_decoding(decoder: Decoder, kind: str) -> None:
    """Pixels and sizes cross the processes unchanged, again and again."""
    for side in (9, 300, 20):
        data = encoded(noise(side, side + 1), kind)
        assert_same(decode_image(data, max_pixels=MAX_PIXELS), decoder(data, max_pixels=MAX_PIXELS))


def test_16_bit_pixels_match_in_process_decoding(decoder: Decoder) -> None:
    """Whatever else is said of a picture crosses with it."""
    data = encoded(Image.fromarray(np.linspace(0, 4095, 40 * 30).astype(np.uint16).reshape(30, 40)), "PNG")

    assert_same(decode_image(data, max_pixels=MAX_PIXELS), decoder(data, max_pixels=MAX_PIXELS))


def test_large_pictures_leave_no_large_file_behind(decoder: Decoder) -> None:
    """A picture that needs more room than is kept is whole, and the room is given back."""
    data = encoded(Image.linear_gradient("L").resize((3000, 2500)).convert("RGB"), "PNG")

    assert_same(decode_image(data, max_pixels=MAX_PIXELS), decoder(data, max_pixels=MAX_PIXELS))

    assert 3000 * 2500 * 3 > KEPT_BYTES
    assert KEPT_BYTES == os.fstat(decoder._idle[-1].room.fileno()).st_size


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_wanted_size_is_asked_for(decoder: Decoder, orientation: int) -> None:
    """A JPEG is decoded no finer than the model looks at, turned ones too."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(800, 600), "JPEG", exif=exif)

    def wanted(*, height: int, width: int) -> tuple[int, int]:
        return height // 4, width // 4

    picture = decoder(data, max_pixels=MAX_PIXELS, wanted=wanted)

    assert_same(decode_image(data, max_pixels=MAX_PIXELS, wanted=wanted), picture)
    assert picture.pixels.shape[0] * 4 == picture.height


def test_errors_cross_the_process_boundary_and_keep_the_process(decoder: Decoder) -> None:
    """What decoding refuses is refused with the same words, and the process goes on."""
    decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)
    process = decoder._idle[-1].process.pid
    for data, most in ((b"no image", MAX_PIXELS), (encoded(noise(8, 8)), 63), (encoded(noise(8, 8))[:60], MAX_PIXELS)):
        with pytest.raises((InvalidImageError, ImageTooLargeError)) as expected:
            decode_image(data, max_pixels=most)
        with pytest.raises(type(expected.value)) as caught:
            decoder(data, max_pixels=most)
        assert (str(expected.value), expected.value.field) == (str(caught.value), caught.value.field)

    assert process == decoder._idle[-1].process.pid


def test_cpu_time_is_bounded() -> None:
    """Native code that computes for too long is ended, the caller hears of the limit, and the next image is decoded."""
    with contextlib.closing(Decoder(cpu_s=0.02)) as decoder:
        with pytest.raises(InvalidImageError, match=r"limit of 0\.02 s of CPU time") as caught:
            decoder(encoded(noise(3000, 2000), "PNG", compress_level=1), max_pixels=MAX_PIXELS)
        assert "image" == caught.value.field

        assert (4, 4, 3) == decoder(encoded(noise(4, 4), "BMP"), max_pixels=MAX_PIXELS).pixels.shape


def test_each_image_has_the_whole_time() -> None:
    """The limit is of one image, not of a process's life."""
    data = encoded(noise(1000, 1000), "PNG")
    start = time.process_time()
    decode_image(data, max_pixels=MAX_PIXELS)
    cpu_s = time.process_time() - start
    with contextlib.closing(Decoder(cpu_s=cpu_s * 20)) as bounded:
        for _ in range(30):
            bounded(data, max_pixels=MAX_PIXELS)
        assert 1 == len(bounded._idle)


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="there is no /proc")
def test_memory_is_bounded(decoder: Decoder) -> None:
    """While an image is decoded, its process's address space is limited by its pixels."""
    limits: list[int] = []

    def wanted(*, height: int, width: int) -> tuple[int, int]:
        text = Path(f"/proc/{decoder._busy[0].process.pid}/limits").read_text("ascii")
        line = next(line for line in text.splitlines() if line.startswith("Max address space"))
        limits.append(int(line.split()[3]))
        return height, width

    for most in (64, 10_000_064):
        decoder(encoded(noise(8, 8)), max_pixels=most, wanted=wanted)

    small, large = limits
    assert small < 1_500_000_000
    assert 10_000_000 * BYTES_A_PIXEL == large - small


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGSEGV, InvalidImageError), (signal.SIGABRT, InvalidImageError), (9, MemoryError)]
)
def test_crash_fails_only_its_own_image(number: int, error: type[Exception]) -> None:
    """A decoder that crashes takes its process along and nothing else; one the kernel kills ran out of memory."""
    with contextlib.closing(Decoder(cpu_s=PLENTY_S)) as decoder:

        def crash(*, height: int, width: int) -> tuple[int, int]:
            os.kill(decoder._busy[0].process.pid, number)
            return height, width

        with pytest.raises(error):
            decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS, wanted=crash)

        assert not decoder._busy
        assert (8, 8, 3) == decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS).pixels.shape


def test_idle_process_that_died_is_replaced(decoder: Decoder) -> None:
    """Nobody hears of it."""
    decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)
    for child in decoder._idle:
        child.process.kill()
        child.process.wait()

    assert (8, 8, 3) == decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS).pixels.shape


def test_one_more_process_that_could_not_be_started_does_not_matter(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image is refused, and the next is decoded by the process that there is."""
    decoder.start()
    child = decoder._take()
    with monkeypatch.context() as full:
        full.setattr("osamd.pixels.decoder._started", lambda *_: (_ for _ in ()).throw(BlockingIOError(11, "busy")))
        with pytest.raises(OverloadedError, match="could not start a process"):
            decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)
        assert decoder.problem is None
        decoder._give_back(child)
        assert (8, 8, 3) == decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS).pixels.shape
        decoder._drop(decoder._take())
        with pytest.raises(OverloadedError):
            decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)
        assert "could not start a process" in str(decoder.problem)
    decoder.start()
    assert decoder.problem is None


def test_terminal_and_service_signals_are_ignored(decoder: Decoder) -> None:
    """Ctrl-C and a service's stop reach all processes; the server finishes what runs first."""

    def interrupt(*, height: int, width: int) -> tuple[int, int]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(decoder._busy[0].process.pid, number)
        return height, width

    decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)
    picture = decoder(encoded(noise(8, 8), "JPEG"), max_pixels=MAX_PIXELS, wanted=interrupt)

    assert (8, 8) == (picture.height, picture.width)


def test_threads_have_processes_of_their_own() -> None:
    """Several images are decoded at once, and the number of idle processes is limited."""
    together = threading.Barrier(MOST_IDLE + 1, timeout=WAIT_S)
    data = encoded(noise(8, 8), "JPEG")
    with contextlib.closing(Decoder(cpu_s=PLENTY_S)) as decoder:

        def wanted(*, height: int, width: int) -> tuple[int, int]:
            together.wait()
            return height, width

        threads = [
            threading.Thread(target=decoder, args=(data,), kwargs={"max_pixels": 64, "wanted": wanted})
            for _ in range(MOST_IDLE + 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)

        assert not together.broken
        assert (0, MOST_IDLE) == (len(decoder._busy), len(decoder._idle))


def test_large_images_are_decoded_one_at_a_time(decoder: Decoder) -> None:
    """So that their memory does not add up; others do not wait for them."""
    large = encoded(Image.new("L", (LARGE_PIXELS // 1000, 1001)), "PNG")
    small = encoded(noise(8, 8))
    begun: list[str] = []

    def second_wanted(*, height: int, width: int) -> tuple[int, int]:
        begun.append("second")
        return height, width

    second = threading.Thread(target=decoder, args=(large,), kwargs={"max_pixels": MAX_PIXELS, "wanted": second_wanted})

    def first_wanted(*, height: int, width: int) -> tuple[int, int]:
        begun.append("first")
        second.start()
        for _ in range(3):
            decoder(small, max_pixels=MAX_PIXELS)
        assert begun == ["first"]
        return height, width

    picture = decoder(large, max_pixels=MAX_PIXELS, wanted=first_wanted)
    second.join(WAIT_S)

    assert (1001, LARGE_PIXELS // 1000) == picture.pixels.shape[:2]
    assert begun == ["first", "second"]


def test_closing_ends_what_runs() -> None:
    """An image in work fails at once, and no process is left."""
    decoder = Decoder(cpu_s=PLENTY_S)
    processes: list[subprocess.Popen[bytes]] = []

    def close(*, height: int, width: int) -> tuple[int, int]:
        processes.append(decoder._busy[0].process)
        decoder.close()
        return height, width

    with pytest.raises(ShuttingDownError):
        decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS, wanted=close)
    with pytest.raises(ShuttingDownError):
        decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)

    assert -signal.SIGKILL == processes[0].returncode
    decoder.start()


def test_process_has_no_environment_or_files_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in its environment, no descriptor but its own, no core dump."""
    monkeypatch.setenv("API_KEY", "a-secret-of-the-server")
    with contextlib.closing(Decoder(cpu_s=PLENTY_S)) as other, Path(__file__).open("rb"):
        other(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)
        process = Path(f"/proc/{other._idle[0].process.pid}")
        if not process.exists():
            pytest.skip("there is no /proc")
        assert b"a-secret-of-the-server" not in (process / "environ").read_bytes()
        opened = {link.readlink().name.partition(":")[0] for link in (process / "fd").iterdir()}
        assert opened == {"null", "socket", "memfd"}
        assert "Max core file size        0" in (process / "limits").read_text("ascii")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has no descriptors of processes")
def test_a_process_ends_with_its_parent() -> None:
    """Even if the parent is killed."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHANED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            assert select.select([child], [], [], WAIT_S)[0]
        finally:
            os.close(child)


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'{"shape": [1, 1, 3]}',
        b'{"shape": [1, 1, 4], "picture": {"height": 1, "width": 1}}',
        b'{"shape": [-1, -1, 3], "picture": {"height": 1, "width": 1}}',
        b'{"shape": [8000, 8001, 3], "picture": {"height": 1, "width": 1}}',
        b'{"shape": [4000, 4000, 3], "picture": {"height": 1, "width": 1}}',
        b'{"shape": [1.5, 1, 3], "picture": {"height": 1, "width": 1}}',
        b'{"size": [1, 1, 1]}',
        b'{"size": "11"}',
    ],
)
def test_a_process_is_not_trusted(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an image has taken over says what it likes: that is a broken image, and the process is ended."""
    monkeypatch.setattr(
        "osamd.pixels.decoder.PROGRAM", TAKEN_OVER.replace("SAID", repr(said).replace("{", "{{").replace("}", "}}"))
    )
    with contextlib.closing(Decoder(cpu_s=PLENTY_S)) as decoder:
        decoder.start()
        process = decoder._idle[0].process

        with pytest.raises(InvalidImageError, match="crashed"):
            decoder(encoded(noise(8, 8)), max_pixels=MAX_PIXELS)

        assert -signal.SIGKILL == process.returncode
