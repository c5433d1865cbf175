"""Which of Pillow's formats a file may be, told from its first bytes.

Six are always there. What opens AVIF, JPEG 2000 and HEIC is imported with the first file that needs it, so that nobody
else waits for it or runs its code.
"""

import struct
from typing import Final

from PIL import (  # noqa: F401 - importing a plugin is what registers its format
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from osamd.errors import InvalidImageError
from osamd.pixels.jpeg2000 import is_jpeg2000

# Pillow opens MPO, the JPEG with a second picture behind it that many phones write, as JPEG.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
FORMAT_NAMES: Final = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF and JPEG 2000"
# ISO base media files begin with this box; it has their brands.
FILE_TYPE: Final = b"ftyp"
MOST_BRANDS_BYTES: Final = 256
AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
HEIC_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)


def formats_of(data: bytes) -> tuple[str, ...]:
    """The names of the formats to try, for Pillow.

    Raises:
        InvalidImageError: it is a HEIC, and what reads it is not installed.
    """
    if is_jpeg2000(data):
        from PIL import Jpeg2KImagePlugin

        return (Jpeg2KImagePlugin.Jpeg2KImageFile.format,)
    brands = _brands(data)
    if brands & AVIF_BRANDS:
        from PIL import AvifImagePlugin

        return (AvifImagePlugin.AvifImageFile.format,)
    return _heic() if brands & HEIC_BRANDS else FORMATS


def _brands(data: bytes) -> frozenset[bytes]:
    """What an ISO base media file says it is compatible with; nothing for other files."""
    if data[4:8] != FILE_TYPE:
        return frozenset()
    (length,) = struct.unpack_from(">I", data)
    # Behind the first brand is a version.
    others = data[16 : min(length, MOST_BRANDS_BYTES)]
    return frozenset({data[8:12], *(others[at : at + 4] for at in range(0, len(others), 4))})


def _heic() -> tuple[str, ...]:
    try:
        import pi_heif
    except ImportError:
        raise InvalidImageError(
            "HEIC images are not read by this server: send JPEG, or have its operator install osamd[heic]",
            field="image",
        ) from None
    # The picture alone: nobody here looks at what comes with it.
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return ("HEIF",)
