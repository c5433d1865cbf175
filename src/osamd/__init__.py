"""osamd: clicks, boxes and words into masks over HTTP. Import from the noun's module, e.g. ``osamd.client``."""

from typing import Final

__version__: Final = "0.1.0"
