"""Matches the origins of web pages, extensions and desktop apps against ``OSAMD_CORS_ORIGINS``."""

import re
from collections.abc import Container, Sequence


class Origins(Container[str]):
    """A set of origins.

    Args:
        listed: origins as browsers write them. ``moz-extension://*``, ``vscode-webview://*`` and the like match every
            host of a scheme that web pages cannot have; these hosts differ between installations.

    Attributes:
        pattern: a regular expression that matches exactly these.
    """

    def __init__(self, listed: Sequence[str]) -> None:
        self.pattern = "|".join(re.escape(origin).replace(r"\*", "[^/]+") for origin in listed) or r"(?!)"
        self._compiled = re.compile(self.pattern)

    def __contains__(self, origin: object) -> bool:
        return isinstance(origin, str) and self._compiled.fullmatch(origin) is not None
