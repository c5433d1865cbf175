"""Files by URL, such as in a bucket, with as much of pathlib as this package uses. Needs fsspec, an extra.

A file is written under its own name in one piece, which object stores show as a whole or not at all. They have no
locks. Credentials come from where the store's own library looks for them, never from a URL; the texts of its errors are
not shown, since they may hold some.
"""

import contextlib
import errno
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote

from osamd.errors import InvalidRequestError

# With the package that each needs beside fsspec.
SCHEMES: Final = {"s3": "s3fs", "gs": "gcsfs", "memory": ""}
LOCAL: Final = "file"
# Hosts of such URLs.
HERE: Final = frozenset({"", "localhost"})
URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(text: str) -> bool:
    """Whether a text is a URL and not a path."""
    return URL.match(text) is not None


class UrlPath:
    """A file or folder.

    Args:
        url: with a scheme of ``SCHEMES``.

    Raises:
        InvalidRequestError: it is not such a URL, or a package is missing.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        self._scheme = scheme.lower()
        if self._scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in (*SCHEMES, LOCAL))
            raise InvalidRequestError(f"{self._scheme}:// cannot be read or written: expected a path, or {known}")
        authority = rest.partition("/")[0]
        if "@" in authority:
            raise InvalidRequestError(
                f"a {self._scheme}:// URL with a name or password before @: leave them out, and set them where"
                f" {SCHEMES[self._scheme] or 'fsspec'} looks for credentials"
            )
        if not authority or set("*?[") & set(authority):
            raise InvalidRequestError(f"{url}: expected a bucket after ://")
        self._path = rest.strip("/")
        self._files = _file_system(self._scheme)

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}"

    def __truediv__(self, name: str) -> "UrlPath":
        return UrlPath(f"{self}/{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return UrlPath, (str(self),)

    @property
    def parent(self) -> "UrlPath":
        """The folder."""
        return UrlPath(f"{self._scheme}://{posixpath.dirname(self._path)}")

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self._path)

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return posixpath.splitext(self.name)[0]

    @property
    def bucket(self) -> str:
        """Scheme and first part: what a relative reference cannot leave."""
        return f"{self._scheme}://{self._path.partition('/')[0]}"

    def absolute(self) -> "UrlPath":
        """Itself."""
        return self

    @property
    def key(self) -> str:
        """The rest, without the scheme."""
        return self._path

    def relative_to(self, folder: "UrlPath") -> str:
        """The way from a folder of the same bucket to this file."""
        return posixpath.relpath(self._path, folder.key)

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        with self._told():
            return bool(self._files.exists(self._path))

    def is_file(self) -> bool:
        """Whether it is a file."""
        with self._told():
            return bool(self._files.isfile(self._path))

    def is_dir(self) -> bool:
        """Whether there are files below it."""
        with self._told():
            return bool(self._files.isdir(self._path))

    def read_bytes(self) -> bytes:
        """The whole content."""
        with self._told():
            content: bytes = self._files.cat_file(self._path)
            return content

    @contextlib.contextmanager
    def open(self, mode: str) -> Iterator[IO[bytes]]:
        """A local copy, for reading."""
        if mode != "rb":
            raise ValueError(mode)
        with tempfile.NamedTemporaryFile() as copy:
            with self._told():
                self._files.get_file(self._path, copy.name)
            with Path(copy.name).open("rb") as file:
                yield file

    @contextlib.contextmanager
    def replacing(self) -> Iterator[IO[bytes]]:
        """A local file that is sent in one piece when the block ends without an exception."""
        with tempfile.NamedTemporaryFile() as copy:
            yield copy.file
            copy.file.flush()
            with self._told():
                self._files.put_file(copy.name, self._path)

    def unlink(self, *, missing_ok: bool) -> None:
        """Delete the file."""
        with self._told():
            if not missing_ok or self._files.exists(self._path):
                self._files.rm_file(self._path)

    def files(self) -> list[str]:
        """URLs of all files below it."""
        with self._told():
            return [self._url(path) for path in self._files.find(self._path)]

    def matches(self, pattern: str) -> list[str]:
        """URLs of the files below it that match."""
        with self._told():
            found: dict[str, Any] = self._files.glob(posixpath.join(self._path, pattern), detail=True)
            return [self._url(path) for path, about in found.items() if about["type"] == "file"]

    def _url(self, path: str) -> str:
        return f"{self._scheme}://{path.lstrip('/')}"

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise every error as an ``OSError`` with this URL and no text of the store."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own
            number = getattr(error, "errno", None) or next(
                (number for kind, number in _NUMBERS.items() if isinstance(error, kind)), errno.EIO
            )
            reason = os.strerror(number)
            if number == errno.EIO:
                reason += f" ({type(error).__name__})"
            raise OSError(number, reason, str(self)) from None


_NUMBERS: Final[dict[type, int]] = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
Place = Path | UrlPath


def place_of(text: str) -> Place:
    """A path, or a URL; ``file://`` is a path, in which ``?`` and ``#`` are letters as in any other.

    Raises:
        InvalidRequestError: see ``UrlPath``; or a ``file://`` URL names another host.
    """
    found = URL.match(text)
    if found is None:
        return Path(text)
    if found[1].lower() == LOCAL:
        host, _, path = text[found.end() :].partition("/")
        if host not in HERE:
            raise InvalidRequestError(f"{text}: expected an absolute path on this machine, as in file:///photos")
        return Path(unquote(f"/{path}", errors="surrogateescape"))
    return UrlPath(text)


def way_to(path: str, folder: Place) -> str:
    """How a file in a folder refers to a photo: relative to it, if both are on one file system or in one bucket."""
    photo = place_of(path)
    if isinstance(photo, UrlPath) and isinstance(folder, UrlPath):
        return photo.relative_to(folder) if photo.bucket == folder.bucket else path
    if isinstance(photo, UrlPath) or isinstance(folder, UrlPath):
        return path
    return os.path.relpath(path, os.path.realpath(folder))


def _file_system(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError:
        raise InvalidRequestError(f"{scheme}:// needs fsspec: pip install 'osamd[urls]'") from None
    try:
        # What other machines write must be seen.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError:
        package = SCHEMES[scheme]
        raise InvalidRequestError(f"{scheme}:// needs {package}: pip install 'osamd[urls]' {package}") from None
