"""Requests that try to overload a server with one user's key, and a good user who must not notice.

``benchmarks/attack.py`` measures with them; ``tests/attacks`` checks the guarantees of SECURITY.md.
"""

import asyncio
import base64
import io
import json
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
from PIL import Image, ImageDraw

ROOT: Final = Path(__file__).resolve().parents[1]
MEGABYTE: Final = 1_000_000
LARGE: Final = 62 * MEGABYTE
GENERATE: Final = "/api/generate"
JSON_TYPE: Final = "application/json"
# How often the good user clicks, sends a new photo and probes, in seconds.
CLICK_EVERY_S, PHOTO_EVERY_S, PROBE_EVERY_S = 0.2, 1.0, 0.02
OK: Final = 200
# Instead of a status: the connection ended; the attacker gave up.
CUT, GAVE_UP = 0, -1
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Attack:
    """What an attacker with a user's key sends at once.

    Attributes:
        body: makes the body of a request from its number.
        count: how many requests are sent at the same time.
        path: with the query.
        content_type: of the bodies.
    """

    body: Callable[[int], bytes]
    count: int
    path: str = GENERATE
    content_type: str = JSON_TYPE


@dataclass
class Seen:
    """What the good user and an observer of the process saw.

    Attributes:
        clicks_s: seconds of each click on a known photo.
        photos_s: seconds of each new photo.
        probes_s: seconds of each ``/health``.
        refused: statuses other than 200 that the good user got.
        most_bytes: largest resident memory of the server and its child processes.
        attacks: statuses the attacker got, or ``CUT`` or ``GAVE_UP``.
        attack_s: seconds until the attacker had all answers.
        cpu_s: CPU seconds the server used meanwhile.
    """

    clicks_s: list[float] = field(default_factory=list)
    photos_s: list[float] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    most_bytes: int = 0
    attacks: list[int] = field(default_factory=list)
    attack_s: float = 0.0
    cpu_s: float = 0.0


# --- images that are expensive to decode -------------------------------------------------------------------------


def jpeg_of_scans(scans: int = 95_000, side: int = 4000) -> bytes:
    """A progressive grey JPEG, followed by many scans without data, each of which goes over all coefficients."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True, quality=50)
    # Coefficients 1 to 5 of component 1; the decoder pads what is missing with zeros.
    empty = b"\xff\xda\x00\x08\x01\x01\x00\x01\x05\x00"
    return buffer.getvalue().removesuffix(b"\xff\xd9") + empty * scans + b"\xff\xd9"


def bmp_of_runs(side: int = 7000) -> bytes:
    """An RLE8 BMP with one pixel in each row, whose rest Pillow fills up a byte at a time."""
    pixels = b"\x01\x80\x00\x00" * side + b"\x00\x01"
    palette = bytes(4 * 256)
    offset = 14 + 40 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 2835, 2835, 256, 0)
    return header + info + palette + pixels


def tiff_of_strips(strips: int = 1_000_000) -> bytes:
    """A grey TIFF one pixel wide with a strip for each row, all of them the same byte."""
    count = 8
    offsets_at = 8 + 2 + count * 12 + 4
    data_at = offsets_at + 4 * strips + 4 * strips
    entries = [
        (256, 4, 1, 1),
        (257, 4, 1, strips),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, strips, offsets_at),
        (278, 4, 1, 1),
        (279, 4, strips, offsets_at + 4 * strips),
    ]
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", count)
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    return head + struct.pack("<I", data_at) * strips + struct.pack("<I", 1) * strips + b"\x80"


def png_of_profiles(chunks: int = 1000) -> bytes:
    """A small PNG with many colour profiles that unpack to a megabyte each."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 50)).save(buffer, "PNG")
    data = buffer.getvalue()
    packed = b"icc\x00\x00" + zlib.compress(bytes(MEGABYTE - 1), 9)
    chunk = struct.pack(">I", len(packed)) + b"iCCP" + packed + struct.pack(">I", zlib.crc32(b"iCCP" + packed))
    header_ends = 8 + 25
    return data[:header_ends] + chunk * chunks + data[header_ends:]


def numbered(picture: bytes, number: int) -> bytes:
    """The same picture with a number behind it, so that no cache knows it."""
    return picture + b"\x00osamd" + number.to_bytes(8, "big")


# --- bodies that are expensive to parse ---------------------------------------------------------------------------


def repeated(unit: bytes, size: int = LARGE) -> bytes:
    """``size`` bytes of the same unit over and over."""
    return (unit * (size // len(unit) + 1))[:size]


def multipart(*parts: bytes) -> bytes:
    """A multipart body of whole parts, with the boundary ``seam``."""
    return b"".join(b"--seam\r\n" + part + b"\r\n" for part in parts) + b"--seam--\r\n"


MULTIPART: Final = "multipart/form-data; boundary=seam"


def image_json(photo: bytes, **fields: Any) -> bytes:
    """A JSON request with an image in base64."""
    return json.dumps({"image": base64.b64encode(photo).decode("ascii"), **fields}).encode()


# --- the good user --------------------------------------------------------------------------------------------------


class GoodUser:
    """Clicks on a known photo, sends new ones, and probes ``/health``, all at a person's pace.

    Args:
        url: of the server.
        key: the good user's own.
        photo: an encoded image.
        clock: what the seconds are measured with.
    """

    def __init__(self, url: str, key: str, photo: bytes, clock: Callable[[], float] = time.perf_counter) -> None:
        self._url = url
        self._headers = {"X-API-Key": key}
        self._photo = photo
        self._clock = clock
        self._numbers = iter(range(1, 1 << 30))
        self.seen = Seen()
        self.is_at_work = asyncio.Event()

    async def use(self, stop: asyncio.Event) -> None:
        """Go on until ``stop`` is set; ``is_at_work`` is set once the server knows a photo."""
        async with httpx2.AsyncClient(base_url=self._url, headers=self._headers, timeout=120.0) as client:
            known = await self._send_photo(client)
            self.seen = Seen()
            self.is_at_work.set()
            await asyncio.gather(
                self._every(CLICK_EVERY_S, stop, lambda: self._click(client, known)),
                self._every(PHOTO_EVERY_S, stop, lambda: self._send_photo(client)),
                self._every(PROBE_EVERY_S, stop, lambda: self._probe(client)),
            )

    async def _every(self, seconds: float, stop: asyncio.Event, once: Callable[[], Any]) -> None:
        while not stop.is_set():
            await once()
            try:
                async with asyncio.timeout(seconds):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _click(self, client: httpx2.AsyncClient, image_id: str) -> None:
        body = {"image_id": image_id, "prompt": {"points": [[225, 150]], "point_labels": [1]}}
        begun = self._clock()
        answer = await client.post(GENERATE, json=body)
        self.seen.clicks_s.append(self._clock() - begun)
        self._note(answer)

    async def _send_photo(self, client: httpx2.AsyncClient) -> str:
        body = numbered(self._photo, next(self._numbers))
        begun = self._clock()
        answer = await client.post(f"{GENERATE}?point=225,150", content=body, headers={"Content-Type": "image/jpeg"})
        self.seen.photos_s.append(self._clock() - begun)
        self._note(answer)
        return str(answer.json().get("image_id", ""))

    async def _probe(self, client: httpx2.AsyncClient) -> None:
        begun = self._clock()
        answer = await client.get("/health")
        self.seen.probes_s.append(self._clock() - begun)
        self._note(answer)

    def _note(self, answer: httpx2.Response) -> None:
        if answer.status_code != OK:
            self.seen.refused.append(answer.status_code)


@dataclass(frozen=True)
class Target:
    """A server under attack.

    Attributes:
        url: where it listens.
        process: its process id.
        attacker: the attacker's key.
        good: the good user's key.
        photo: an encoded image, for both.
        handle: the attacker's, from ``noise_handle``.
    """

    url: str
    process: int
    attacker: str
    good: str
    photo: bytes
    handle: str


def attacker_process() -> ProcessPoolExecutor:
    """The attacker: a process of its own, so that sending much does not slow down the good user's clock."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


async def run_attack(
    target: Target,
    name: str,
    attacker: Executor,
    *,
    patience_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Seen:
    """Attack a server while a good user works, and return what that user saw.

    Args:
        target: the server.
        name: one of ``ATTACKS``.
        attacker: from ``attacker_process``.
        patience_s: seconds after which the attacker no longer waits for answers.
        clock: what the good user's seconds are measured with.
    """
    user = GoodUser(target.url, target.good, target.photo, clock)
    stop, over = asyncio.Event(), asyncio.Event()
    most = 0

    async def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, sum(map(resident_bytes, family(target.process))))
            await asyncio.sleep(0.05)

    # Started before anything is measured.
    await asyncio.wrap_future(attacker.submit(os.getpid))
    working = asyncio.create_task(user.use(stop))
    watching = asyncio.create_task(watch())
    await user.is_at_work.wait()
    cpu = sum(map(cpu_seconds, family(target.process)))
    statuses, seconds = await asyncio.wrap_future(attacker.submit(send_attack, target, name, patience_s))
    stop.set()
    await working
    over.set()
    await watching
    seen = user.seen
    seen.attacks, seen.attack_s, seen.most_bytes = statuses, seconds, most
    seen.cpu_s = sum(map(cpu_seconds, family(target.process))) - cpu
    return seen


def send_attack(target: Target, name: str, patience_s: float) -> tuple[list[int], float]:
    """Send all requests of an attack at once: the statuses, and seconds until the last."""
    attack = ATTACKS[name](target.photo, target.handle)

    async def send() -> list[int]:
        headers, limits = {"X-API-Key": target.attacker}, httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=target.url, headers=headers, timeout=None, limits=limits) as client:
            sent = (_send(client, attack, number, patience_s) for number in range(attack.count))
            return list(await asyncio.gather(*sent))

    begun = time.perf_counter()
    return asyncio.run(send()), time.perf_counter() - begun


async def _send(client: httpx2.AsyncClient, attack: Attack, number: int, patience_s: float) -> int:
    headers = {"Content-Type": attack.content_type}
    try:
        async with asyncio.timeout(patience_s):
            answer = await client.post(attack.path, content=attack.body(number), headers=headers)
    except TimeoutError:
        return GAVE_UP
    except httpx2.TransportError:
        return CUT
    return answer.status_code


async def watch_good_user(target: Target, *, seconds: float) -> Seen:
    """What the good user sees without an attack."""
    user = GoodUser(target.url, target.good, target.photo)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await user.use(stop)
    return user.seen


# --- process statistics from the kernel ------------------------------------------------------------------------------


def family(process: int) -> list[int]:
    """A process and its running descendants."""
    found = [process]
    for pid in found:
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            for task in tasks:
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def resident_bytes(process: int) -> int:
    """Bytes of memory a process holds; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def cpu_seconds(process: int) -> float:
    """CPU seconds that a process and its ended children have used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


# --- all of them ------------------------------------------------------------------------------------------------------


def noise_embedding(client: httpx2.Client, photo: bytes, pixels: int = 50_000_000) -> dict[str, Any]:
    """The built-in model's embedding of a photo, full of noise, that claims to be of as large an image of its shape."""
    answer = client.post(GENERATE, content=image_json(photo, include=["image_embedding_compact"], mask_format="none"))
    answer.raise_for_status()
    embedding: dict[str, Any] = answer.json()["image_embedding"]
    noise = np.random.default_rng(0)
    for array in (embedding["embedding"], *embedding["extra_features"]):
        values = noise.normal(size=array["shape"]).astype(array["dtype"])
        array["data"] = base64.b64encode(values.tobytes()).decode("ascii")
    height, width = embedding["original_height"], embedding["original_width"]
    scale = math.sqrt(pixels / (height * width))
    return embedding | {"original_height": int(height * scale), "original_width": int(width * scale)}


def noise_handle(client: httpx2.Client, photo: bytes) -> str:
    """A handle of such an embedding."""
    body = {"image_embedding": noise_embedding(client, photo), "mask_format": "none"}
    answer = client.post(GENERATE, json=body)
    answer.raise_for_status()
    return str(answer.json()["image_id"])


def always(body: bytes) -> Callable[[int], bytes]:
    """The same body for every request."""
    return lambda _: body


def always_new(picture: bytes) -> Callable[[int], bytes]:
    """The same picture for every request, but never the same bytes."""
    return lambda number: numbered(picture, number)


CLICKED: Final = f"{GENERATE}?point=1,1"


def _image(picture: bytes, count: int, content_type: str) -> Attack:
    return Attack(always_new(picture), count, CLICKED, content_type)


def _noise(handle: str, mask_format: str) -> Attack:
    prompts = [{"points": [[x, 3000]], "point_labels": [1]} for x in range(1000, 7000, 900)]
    document = {"image_id": handle, "prompts": prompts, "mask_format": mask_format}
    return Attack(always(json.dumps(document).encode()), 32)


def _many_prompts(photo: bytes) -> Attack:
    prompts = [{"points": [[x, 100]], "point_labels": [1]} for x in range(64)]
    return Attack(lambda number: image_json(numbered(photo, number), prompts=prompts), 8)


def _part(head: bytes, value: bytes, *, times: int = 1) -> Attack:
    part = b"Content-Disposition: form-data; " + head + b"\r\n\r\n" + value
    return Attack(always(multipart(*[part] * times)), 2, GENERATE, MULTIPART)


def _rows_of_clicks() -> Attack:
    """Clicks on one small disc after the other, which leave the built-in model's window around those before."""
    rows = [[(60 + 70 * column, 80 + 160 * row) for column in range(16)] for row in range(4)]
    image = Image.new("RGB", (1200, 800), (60, 60, 60))
    for x, y in chain.from_iterable(rows):
        ImageDraw.Draw(image).ellipse((x - 18, y - 18, x + 18, y + 18), fill=(230, 210, 60))
    photo = io.BytesIO()
    image.save(photo, "JPEG")
    prompts = [{"points": row[turn:] + row[:turn], "point_labels": [1] * 16} for row in rows for turn in range(4)]
    return Attack(lambda number: image_json(numbered(photo.getvalue(), number), prompts=prompts), 4)


def _json(document: bytes, *, count: int = 2) -> Attack:
    return Attack(always(document), count)


# By name. Each is made from an encoded image of more than 300 x 200 pixels and the handle of ``noise_handle``.
ATTACKS: Final[Mapping[str, Callable[[bytes, str], Attack]]] = {
    "JPEG of 95 000 scans": lambda *_: _image(jpeg_of_scans(), 3, "image/jpeg"),
    "RLE8 BMP": lambda *_: _image(bmp_of_runs(), 16, "image/bmp"),
    "TIFF of a million strips": lambda *_: _image(tiff_of_strips(), 4, "image/tiff"),
    "PNG of 1 000 profiles": lambda *_: _image(png_of_profiles(), 4, "image/png"),
    "noise masks as rle": lambda _, handle: _noise(handle, "rle"),
    "noise masks as polygon": lambda _, handle: _noise(handle, "polygon"),
    "noise masks as png": lambda _, handle: _noise(handle, "png"),
    "requests of 64 prompts": lambda photo, _: _many_prompts(photo),
    "rows of clicks": lambda *_: _rows_of_clicks(),
    "new photos of one key": lambda photo, _: _image(photo, 60, "image/jpeg"),
    "long image_path": lambda *_: _json(json.dumps({"image_path": "a/" * 500_000}).encode(), count=4),
    "white space in base64": lambda *_: _json(b'{"image":"' + repeated(b"A ") + b'"}', count=4),
    "long unknown field": lambda *_: _json(b'{"' + repeated(b"\\u0001", LARGE // 6 * 6) + b'":1}'),
    "a long number": lambda *_: _json(b'{"multimask":' + repeated(b"1") + b"}"),
    "deep arrays": lambda *_: _json(repeated(b"[")),
    "white space in JSON": lambda *_: _json(b"{" + repeated(b" ") + b"}"),
    "escapes in JSON": lambda *_: _json(b'{"image":"' + repeated(b"\\u0041", LARGE // 6 * 6) + b'"}'),
    "many keys in JSON": lambda *_: _json(b"{" + repeated(b'"a":1,') + b'"b":1}'),
    "many parts": lambda *_: _part(b'name="a"', b"1", times=10 * MEGABYTE // 60),
    "almost boundaries": lambda *_: _part(b'name="image"; filename="a"', repeated(b"\r\n--sea", 30 * MEGABYTE)),
    "a long part header": lambda *_: _part(b'name="' + repeated(b"a", 30 * MEGABYTE) + b'"', b"1"),
}


def worst(values: Sequence[float]) -> float:
    """The largest, or 0 if there are none."""
    return max(values, default=0.0)
