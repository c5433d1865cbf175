"""Decodes one's own images: in this process, except HEIC, whose decoder was seen to crash on corrupt files."""

from typing import Final, Self

from osamd.pixels.decoder import Decoder
from osamd.types import Decode, Picture, WantedSize

# One's own images may be as slow as they like, but not hang for ever.
MOST_CPU_S: Final = 600.0


class CarefulDecoder:
    """Decodes images like ``decode_image``, but HEIC in another process, so that a crash fails only that image.

    The process is started with the first such image. Thread-safe.
    """

    def __init__(self) -> None:
        self._apart = Decoder(cpu_s=MOST_CPU_S)

    def __call__(self, data: bytes, *, max_pixels: int, wanted: WantedSize | None = None) -> Picture:
        """Decode an image; arguments, result and errors as for ``Decoder``."""
        from osamd.pixels.formats import is_heic
        from osamd.pixels.images import decode_image

        decode: Decode = self._apart if is_heic(data) else decode_image
        return decode(data, max_pixels=max_pixels, wanted=wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._apart.close()
