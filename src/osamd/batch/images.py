"""Images as ``Segmenter`` takes them: paths, encoded bytes, NumPy arrays and Pillow images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osamd.errors import InvalidImageError, OsamdError
from osamd.image_sources import ImageSource

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    AnyImage = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8] | Image.Image
else:
    # NumPy and Pillow are imported when an image arrives.
    AnyImage = Any

CHANNELS: Final = 3
PIXEL_AXES: Final = 3


def source_of(image: Any) -> ImageSource:
    """Convert any supported image; runs on a thread, since it reads files and hashes.

    Raises:
        InvalidImageError: its type is not supported, or its file cannot be read.
    """
    import numpy as np
    from PIL import Image

    if isinstance(image, bytes):
        return ImageSource.of_bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return ImageSource.of_bytes(Path(image).read_bytes())
        except OSError as error:
            raise InvalidImageError(f"{os.fspath(image)!s}: {error.strerror}", field="image") from None
        except ValueError as error:
            # Such as a path with a null byte.
            raise InvalidImageError(f"{os.fspath(image)!r}: {error}", field="image") from None
    if isinstance(image, np.ndarray):
        return ImageSource.of_pixels(_checked_pixels(image))
    if isinstance(image, Image.Image):
        return ImageSource.of_pixels(_pillow_pixels(image))
    raise InvalidImageError(
        f"expected a path, bytes, a NumPy array or a Pillow image; got {type(image).__name__}", field="image"
    )


def _checked_pixels(pixels: "npt.NDArray[Any]") -> "npt.NDArray[np.uint8]":
    import numpy as np

    if pixels.ndim != PIXEL_AXES or pixels.shape[2] != CHANNELS or pixels.dtype != np.uint8 or not pixels.size:
        raise InvalidImageError(
            f"expected an array of (height, width, 3) uint8 RGB; got {pixels.shape} {pixels.dtype}", field="image"
        )
    return np.ascontiguousarray(pixels)


def _pillow_pixels(image: "Image.Image") -> "npt.NDArray[np.uint8]":
    import numpy as np

    from osamd.pixels.images import to_rgb

    try:
        # Pillow reads files only now.
        image.load()
        # Its EXIF orientation is not applied: prompts use the coordinates of image.size.
        return np.ascontiguousarray(to_rgb(image))
    except (MemoryError, OsamdError):
        raise
    except Exception as error:
        raise InvalidImageError(f"the Pillow image cannot be read: {error}", field="image") from error
