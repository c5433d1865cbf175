"""Content negotiation between JSON, PNG and JSON lines by the header ``Accept`` (RFC 9110, section 12.5.1)."""

from typing import Final

PNG: Final = "image/png"
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
# From the most to the least specific range that matches a type.
RANGES: Final = {
    PNG: (PNG, "image/*", "*/*"),
    JSON: (JSON, "application/*", "*/*"),
    NDJSON: (NDJSON, "application/*", "*/*"),
}
# More ranges than any client sends; the header may have 64 KiB.
MOST_RANGES: Final = 64


def prefers_png(accept: str) -> bool:
    """Whether PNG is preferred to JSON: by quality, then by specificity, then by order.

    ``image/*`` means PNG. ``*/*``, an empty header and unsupported types mean JSON.
    """
    qualities = _qualities(accept)
    png, json = _rank(qualities, RANGES[PNG]), _rank(qualities, RANGES[JSON])
    return png is not None and (json is None or png > json)


def prefers_lines(accept: str) -> bool:
    """Whether JSON lines are preferred to JSON, as in ``prefers_png``; ``application/*`` means JSON."""
    qualities = _qualities(accept)
    lines, json = _rank(qualities, RANGES[NDJSON]), _rank(qualities, RANGES[JSON])
    return lines is not None and (json is None or lines > json)


def _rank(qualities: dict[str, tuple[float, int]], ranges: tuple[str, ...]) -> tuple[float, int, int] | None:
    """Quality, specificity and position of a type's most specific range; None: not acceptable."""
    for exactness, name in zip((2, 1, 0), ranges, strict=True):
        if name in qualities:
            quality, place = qualities[name]
            return (quality, exactness, -place) if quality > 0.0 else None
    return None


def _qualities(accept: str) -> dict[str, tuple[float, int]]:
    """Quality and position of each range; the first one counts if it is repeated."""
    found: dict[str, tuple[float, int]] = {}
    for place, part in enumerate(accept.split(",", MOST_RANGES)[:MOST_RANGES]):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        found.setdefault(name, (_quality(parameters), place))
    return found


def _quality(parameters: list[str]) -> float:
    """The ``q`` of a range: 1 if there is none, 0 if it is not a number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a reply may be compressed with gzip, by the header ``Accept-Encoding``."""
    qualities = _qualities(accept_encoding)
    quality, _ = qualities.get("gzip", qualities.get("*", (0.0, 0)))
    return quality > 0.0
