"""The header that lets a load balancer send an image and all clicks on it to the same server.

``X-Osamd-Image`` holds the first 8 hexadecimal digits of the SHA-256 of the image's bytes, which are also the digits
after ``img_`` in its handle. osamd ignores the header; proxies hash it (``docs/guides/scale.md``).
"""

import hashlib
import re
from typing import Final

HEADER: Final = "X-Osamd-Image"
HANDLE: Final = re.compile(r"(?:img|mask)_([0-9a-f]{8})[0-9a-f]{24}")


def headers_of_content(content: bytes | None) -> dict[str, str]:
    """The header for an image's encoded bytes; none without them."""
    return {} if content is None else {HEADER: hashlib.sha256(content).hexdigest()[:8]}


def headers_of_handle(image_id: str) -> dict[str, str]:
    """The header for a handle; none for text that is not a handle, which the server will reject."""
    handle = HANDLE.fullmatch(image_id)
    return {} if handle is None else {HEADER: handle[1]}
