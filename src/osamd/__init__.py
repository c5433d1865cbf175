"""osamd: clicks, boxes and words into masks over HTTP. Import from the noun's module, e.g. ``osamd.client``."""

__version__ = "0.1.0"
