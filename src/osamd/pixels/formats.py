"""Which of Pillow's formats a file may have, from its first bytes.

Six are always loaded. The plugins for AVIF, JPEG 2000 and HEIC are imported with the first such file, so that other
users neither wait for them nor run their code.
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

# Pillow opens MPO, a JPEG followed by a second picture that many phones write, as JPEG.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
FORMAT_NAMES: Final = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF and JPEG 2000"
# ISO base media files begin with this box, which lists their brands.
FILE_TYPE: Final = b"ftyp"
MOST_BRANDS_BYTES: Final = 256
AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
HEIC_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)


def formats_of(data: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats to try.

    Raises:
        InvalidImageError: the file is HEIC and ``osamd[heic]`` is not installed.
    """
    if is_jpeg2000(data):
        from PIL import Jpeg2KImagePlugin

        return (Jpeg2KImagePlugin.Jpeg2KImageFile.format,)
    brands = _brands(data)
    if brands & AVIF_BRANDS:
        from PIL import AvifImagePlugin

        return (AvifImagePlugin.AvifImageFile.format,)
    return _heic() if brands & HEIC_BRANDS else FORMATS


def is_heic(data: bytes) -> bool:
    """Whether a file is read as HEIC."""
    brands = _brands(data)
    return bool(brands & HEIC_BRANDS) and not brands & AVIF_BRANDS


def _brands(data: bytes) -> frozenset[bytes]:
    """The brands of an ISO base media file; empty for other files."""
    if data[4:8] != FILE_TYPE:
        return frozenset()
    (length,) = struct.unpack_from(">I", data)
    # A version follows the first brand.
    others = data[16 : min(length, MOST_BRANDS_BYTES)]
    return frozenset({data[8:12], *(others[at : at + 4] for at in range(0, len(others), 4))})


def _heic() -> tuple[str, ...]:
    try:
        import pi_heif
    except ImportError:
        raise InvalidImageError(
            "this server cannot read HEIC images: send JPEG, or ask the operator to install osamd[heic]",
            field="image",
        ) from None
    # Only the picture: thumbnails, depth maps and auxiliary images are not used.
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return ("HEIF",)
