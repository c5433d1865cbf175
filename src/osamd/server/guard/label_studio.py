"""Fetches the images of Label Studio's tasks, from the one Label Studio that the operator named.

The address and the token that Label Studio sends are never used: anybody with a key could send others.
"""

import base64
import re
import time
from collections import OrderedDict
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from osamd.errors import UrlFailedError, UrlRefusedError
from osamd.server.guard.fetching import post_json
from osamd.server.guard.negative_regions import NegativeRegions
from osamd.server.guard.remote_images import PORTS, RemoteImages, Source
from osamd.settings import Settings

FIELD: Final = "tasks[0].data"
# Where Label Studio serves images; nothing else of it is asked with the operator's token.
PLACES: Final = re.compile(r"/(data|storage-data|tasks/[0-9]{1,18}/(presign|resolve))/")
UPLOADED: Final = "/data/upload/"
STORED: Final = re.compile(r"(?!https?:|data:|file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Access tokens are valid for 300 s.
ACCESS_S: Final = 240.0
# A Personal Access Token is a JWT; a legacy token has no dots.
JWT_DOTS: Final = 2
# How long an image is assumed not to change under its address, and how many are remembered.
REMEMBERED_S: Final = 600.0
MOST_REMEMBERED: Final = 4096

ImageKey = tuple[str, str, str]


class LabelStudio:
    """The operator's Label Studio. Belongs to one event loop.

    Args:
        settings: its address and token.
        remote_images: fetches.

    Attributes:
        negative: which regions of its tasks were negative.
    """

    def __init__(self, settings: Settings, remote_images: RemoteImages) -> None:
        self.negative = NegativeRegions()
        self._url = settings.label_studio_url
        secret = settings.label_studio_token
        self._token = "" if secret is None else secret.get_secret_value().strip()
        self._timeout_s = settings.url_s
        self._remote = remote_images
        self._access = ""
        self._access_until = 0.0
        self._image_ids: OrderedDict[ImageKey, tuple[str, float]] = OrderedDict()

    def remember(self, key: ImageKey, image_id: str) -> None:
        """Keep the handle of an image.

        Args:
            key: the caller's name, the model and the image's address.
            image_id: its handle.
        """
        self._image_ids[key] = image_id, time.monotonic() + REMEMBERED_S
        self._image_ids.move_to_end(key)
        if len(self._image_ids) > MOST_REMEMBERED:
            self._image_ids.popitem(last=False)

    def image_id(self, key: ImageKey) -> str | None:
        """The handle of an image that need not be fetched again; the server may have forgotten it since."""
        image_id, until = self._image_ids.get(key, ("", 0.0))
        return image_id if time.monotonic() < until else None

    async def fetch(self, text: str, *, task: str, owner: str) -> bytes:
        """Fetch the image of a task.

        Args:
            text: as in the task's data: a path of Label Studio, a URL, or an address in cloud storage.
            task: the task's id, which cloud storage needs; empty if unknown.
            owner: the key's name.

        Raises:
            UrlRefusedError: it is not where images may be fetched.
            UrlFailedError: it could not be fetched.
            BodyTooLargeError: it has more bytes than allowed.
            OverloadedError: too many fetches are running.
        """
        path = self._path(text, task)
        if path is None:
            return await self._remote.fetch(text, owner=owner)
        if self._url is None:
            raise UrlRefusedError(
                "the server does not know which Label Studio to fetch images from: set OSAMD_LABEL_STUDIO_URL and"
                " OSAMD_LABEL_STUDIO_TOKEN",
                field=FIELD,
            )
        paths = [path]
        if path.startswith(UPLOADED):
            # For files that Label Studio itself keeps in cloud storage.
            paths.append(f"/storage-data/uploaded/?filepath={quote(unquote(path.removeprefix('/data/')), safe='')}")
        source = self._source(self._url, owner)
        for attempt in paths:
            try:
                return await self._remote.fetch(self._url + attempt, owner=owner, source=source)
            except UrlFailedError:
                continue
        raise UrlFailedError(
            "the image could not be fetched from Label Studio: check OSAMD_LABEL_STUDIO_URL and"
            " OSAMD_LABEL_STUDIO_TOKEN, and OSAMD_URL_HOSTS if it is in cloud storage",
            field=FIELD,
        )

    def _path(self, text: str, task: str) -> str | None:
        """The path below Label Studio's URL; None for other URLs.

        Raises:
            UrlRefusedError: it is none where Label Studio serves images.
        """
        if STORED.match(text):
            if not task.isascii() or not task.isdigit():
                raise UrlRefusedError("expected a task id for cloud storage", field="tasks[0].id")
            return f"/tasks/{task}/presign/?fileuri={base64.urlsafe_b64encode(text.encode()).decode('ascii')}"
        own = self._url or ""
        if own and text.startswith(f"{own}/"):
            text = text.removeprefix(own)
        elif not text.startswith("/") or text.startswith("//"):
            return None
        elif own and text.startswith(prefix := f"{urlsplit(own).path}/"):
            text = "/" + text.removeprefix(prefix)
        path = unquote(text.partition("?")[0])
        if not PLACES.match(path) or "\\" in path or not {".", ".."}.isdisjoint(path.split("/")):
            raise UrlRefusedError("expected a Label Studio image path", field=FIELD)
        return text

    def _source(self, url: str, owner: str) -> Source:
        parts = urlsplit(url)

        async def authorization(renew: bool) -> str | None:  # noqa: FBT001 - the type of a callback
            return await self._authorization(owner, renew=renew)

        return Source(parts.scheme, (parts.hostname or "").lower(), parts.port or PORTS[parts.scheme], authorization)

    async def _authorization(self, owner: str, *, renew: bool) -> str | None:
        if not self._token:
            return None
        if self._token.count(".") != JWT_DOTS:
            return f"Token {self._token}"
        if renew or time.monotonic() >= self._access_until:
            self._access = await self._exchange(owner)
            self._access_until = time.monotonic() + ACCESS_S
        return f"Bearer {self._access}"

    async def _exchange(self, owner: str) -> str:
        """An access token for the Personal Access Token."""
        import httpx2

        url = httpx2.URL(f"{self._url}/api/token/refresh")
        found = await self._remote.call(
            lambda context: post_json(url, {"refresh": self._token}, context=context, timeout_s=self._timeout_s),
            owner=owner,
        )
        access = found.get("access")
        if not isinstance(access, str) or not access.isascii() or not access.isprintable():
            raise UrlFailedError("Label Studio returned no access token", field=FIELD)
        return access
