"""The header that lets a load balancer send an image and all clicks on it to the same server.

``X-Osamd-Image`` holds the first 8 hexadecimal digits of the SHA-256 of the image's bytes, which are also the digits
after ``img_`` in its handle. osamd ignores the header; proxies hash it (``docs/guides/scale.md``).
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

HEADER: Final = "X-Osamd-Image"
HANDLE: Final = re.compile(r"(?:img|mask)_([0-9a-f]{8})[0-9a-f]{24}")


def routing_headers(fields: Mapping[str, Any]) -> dict[str, str]:
    """The header for a request.

    Args:
        fields: with ``image`` in base64 or as a data URI, or ``image_id``.

    Returns:
        Nothing for images that the server fetches, and for what the server will reject.
    """
    image, image_id = fields.get("image"), fields.get("image_id")
    if image_id is not None:
        handle = HANDLE.fullmatch(str(image_id))
        return {} if handle is None else {HEADER: handle[1]}
    if not isinstance(image, str):
        return {}
    try:
        content = base64.b64decode(image.partition(",")[2] if image[:5].lower() == "data:" else image)
    except ValueError:
        content = b""
    return {HEADER: hashlib.sha256(content).hexdigest()[:8]} if content else {}
