"""The client: ``Client`` and ``AsyncClient`` for an osamd server, with typed errors and retries during cold starts.

::

    from osamd.client import Client

    with Client("http://127.0.0.1:11368", api_key="...") as client:
        found = client.segment(Path("photo.jpg"), points=[(320, 240)])
        Path("mask.png").write_bytes(found.annotations[0].mask_png)

Built on httpx2, with the same API for both; needs neither NumPy nor the server's other dependencies.
"""

from osamd.client.arguments import Image, SegmentArguments
from osamd.client.clients import DEFAULT_PATIENCE_S, DEFAULT_TIMEOUT_S, DEFAULT_URL, AsyncClient, Client
from osamd.client.replies import FoundObject, Handle, Progress, Segmentation
from osamd.client.streams import Dropped, EverythingUpdate

__all__ = [
    "DEFAULT_PATIENCE_S",
    "DEFAULT_TIMEOUT_S",
    "DEFAULT_URL",
    "AsyncClient",
    "Client",
    "Dropped",
    "EverythingUpdate",
    "FoundObject",
    "Handle",
    "Image",
    "Progress",
    "SegmentArguments",
    "Segmentation",
]
