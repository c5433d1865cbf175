"""Small images that cost decoders much, made in code: no one's files."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

SIDE = 512
# One component's coefficients 1 to 63, or all of it where it is sequential; no data follows.
EMPTY_PROGRESSIVE_SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00"
EMPTY_SEQUENTIAL_SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
PNG = b"\x89PNG\r\n\x1a\n"


def photo(kind: str, side: int = SIDE, **options: object) -> bytes:
    """A smooth picture in a Pillow format."""
    y, x = np.mgrid[0:side, 0:side]
    image = Image.fromarray(np.stack([x * 255 // side, y * 255 // side, np.full_like(x, 90)], -1).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_of_scans(count: int, *, side: int = SIDE) -> bytes:
    """A progressive JPEG with so many more scans, which are empty."""
    return photo("JPEG", side, progressive=True)[:-2] + EMPTY_PROGRESSIVE_SCAN * count + b"\xff\xd9"


def sequential_jpeg_of_scans(count: int) -> bytes:
    """A sequential JPEG whose components come one by one, again and again."""
    data = photo("JPEG")
    return data[: data.index(b"\xff\xda")] + EMPTY_SEQUENTIAL_SCAN * count + b"\xff\xd9"


def jpeg_with(inserted: bytes) -> bytes:
    """A JPEG with these bytes behind its first marker."""
    data = photo("JPEG")
    return data[:2] + inserted + data[2:]


def hidden_scans(count: int) -> bytes:
    """Scans behind a comment that looks like the end of the image."""
    data = photo("JPEG", progressive=True)
    return data[:-2] + b"\xff\xfe\x00\x04\xff\xd9" + EMPTY_PROGRESSIVE_SCAN * count + b"\xff\xd9"


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(inserted: bytes) -> bytes:
    """A PNG with these chunks behind its head."""
    data = photo("PNG", 64)
    return data[:33] + inserted + data[33:]


def packed_chunk(name: bytes, size: int) -> bytes:
    """Text, or a profile, that unpacks to so many bytes."""
    head = {b"iCCP": b"a\0\0", b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0"}[name]
    return chunk(name, head + zlib.compress(bytes(size), 9))


def gif_with(inserted: bytes) -> bytes:
    """A GIF with these blocks before its frame."""
    data = photo("GIF", 64)
    start = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    return data[:start] + inserted + data[start:]


def bmp_of_runs(width: int, height: int, runs: bytes) -> bytes:
    """A grey BMP in run lengths."""
    palette = b"".join(bytes([shade, shade, shade, 0]) for shade in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 1, 1, 256, 0)
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start) + head + palette + runs


def tiff_of_strips(
    count: int, *, order: str = "<", is_big: bool = False, has_decoy: bool = False, extra_tags: int = 0
) -> bytes:
    """A grey TIFF of one column, a row a strip."""
    number, word = ("Q", "Q") if is_big else ("H", "I")
    signature = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if is_big else 42)
    signature += struct.pack(order + "HH", 8, 0) if is_big else b""
    start = len(signature) + struct.calcsize(order + word)
    pixels = start
    lists = pixels + 8
    values = [(256, 1), (257, count), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    entries = [struct.pack(f"{order}HH{word}{word}", tag, 4, 1, value) for tag, value in values]
    if not is_big:
        entries[3] = struct.pack(order + "HHIHH", 259, 3, 1, 1, 0)
    entries += [
        struct.pack(f"{order}HH{word}{word}", tag, 4, count, at) for tag, at in ((273, lists), (279, lists + 4 * count))
    ]
    entries += [struct.pack(f"{order}HH{word}{word}", 1000 + number, 4, 1, 0) for number in range(extra_tags)]
    if has_decoy:
        entries.append(struct.pack(f"{order}HH{word}{word}", 273, 4, 1, pixels))
    directory = struct.pack(order + number, len(entries)) + b"".join(entries) + bytes(8)
    offsets = struct.pack(order + "I", pixels) * count + struct.pack(order + "I", 1) * count
    return signature + struct.pack(order + word, lists + len(offsets)) + bytes(8) + offsets + directory


def webp_of_frames(count: int) -> bytes:
    """An animation of empty frames, as far as can be seen without decoding it."""
    head = b"VP8X" + struct.pack("<IB3x", 10, 2) + bytes([63, 0, 0, 63, 0, 0])
    body = b"WEBP" + head + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body += (b"ANMF" + struct.pack("<I", 16) + bytes(16)) * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


# What no encoder writes, with a word of the limit that refuses it.
ABSURD: dict[str, tuple[Callable[[], bytes], str]] = {
    "95 000 scans": (lambda: jpeg_of_scans(95_000), "64 scans"),
    "scans of a sequential JPEG": (lambda: sequential_jpeg_of_scans(50_000), "64 scans"),
    "scans behind a comment": (lambda: hidden_scans(50_000), "64 scans"),
    "tables between scans": (
        lambda: photo("JPEG", progressive=True)[:-2] + b"\xff\xfe\x00\x04\xff\xda" * 50_000,
        "4,096 segments",
    ),
    "segments of a JPEG": (lambda: jpeg_with(b"\xff\xfe\x00\x02" * 250_000), "4,096 segments"),
    "restarts before a JPEG's scan": (lambda: jpeg_with(b"\xff\xd0" * 500_000), "4,096 segments"),
    "zeros in a JPEG": (lambda: jpeg_with(b"\xff\x00" * 500_000), "4,096 segments"),
    "junk in a JPEG": (lambda: jpeg_with(bytes(1_000_000)), "65,536 bytes between"),
    "fill bytes in a JPEG": (lambda: jpeg_with(b"\xff" * 1_000_000), "65,536 bytes between"),
    "EXIF in many pieces": (
        lambda: jpeg_with((b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65_527)) * 60),
        "16 segments of EXIF",
    ),
    "empty chunks": (lambda: png_with(chunk(b"tEXt", b"a\0") * 100_000), "65,536 chunks"),
    "comments of a GIF": (lambda: gif_with(b"!\xfe" + (b"\xff" + bytes(255)) * 8000 + b"\0"), "4,096 blocks"),
    "many comments of a GIF": (lambda: gif_with(b"!\xfe\1a\0" * 200_000), "4,096 blocks"),
    "junk in a GIF": (lambda: gif_with(bytes(1_000_000)), "4,096 blocks"),
    "run lengths": (lambda: bmp_of_runs(50_000, 1000, b"\0\0" * 14_000), "4,000,000 pixels"),
    "run lengths upside down": (lambda: bmp_of_runs(50_000, -1000, b"\0\0" * 14_000), "4,000,000 pixels"),
    "empty runs": (lambda: bmp_of_runs(1000, 1000, b"\0\0" * 3_000_000), "4,000,000 bytes"),
    "a million strips": (lambda: tiff_of_strips(1_000_000), "65,536 strips"),
    "tags": (lambda: tiff_of_strips(1, extra_tags=50_000), "4,096 tags"),
    "strips, big end first": (lambda: tiff_of_strips(100_000, order=">"), "65,536 strips"),
    "strips of a BigTIFF": (lambda: tiff_of_strips(100_000, is_big=True), "65,536 strips"),
    "strips behind a decoy": (lambda: tiff_of_strips(100_000, has_decoy=True), "65,536 strips"),
    "frames": (lambda: webp_of_frames(70_000), "65,536 frames"),
}
