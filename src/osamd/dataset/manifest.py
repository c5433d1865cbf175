"""The manifest: the header of a run and its photos, one JSON line each. Every machine that works on it reads it."""

import contextlib
import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from osamd.dataset.plan import VERSION, Category, Header, Item, item_of_json, item_to_json
from osamd.dataset.urls import Place
from osamd.dataset.whole_files import whole_file
from osamd.errors import InvalidRequestError

NAME: Final = "manifest.jsonl"
# In words, for the message that two runs differ.
MEANINGS: Final = {
    "count": "the number of images",
    "items_sha256": "the images or their prompts",
    "digest": "the model's files",
    "osamd": "the version of osamd",
    "ask": "the kind of prompt",
    "texts": "the words",
    "shard_size": "--shard-size",
}


class Manifest:
    """A manifest on disk. Only the offsets of its shards are kept in memory.

    Args:
        path: its file, which exists.

    Raises:
        InvalidRequestError: it is not a manifest, or of another version of the format.
        OSError: it cannot be read.
    """

    def __init__(self, path: Place) -> None:
        self._opened = contextlib.ExitStack()
        # By URL, a copy, which is read from the middle.
        self._path = path if isinstance(path, Path) else Path(self._opened.enter_context(path.open("rb")).name)
        self._offsets = array("q")
        with self._path.open("rb") as file:
            self.header = header_of_json(file.readline(), path)
            position = file.tell()
            for index, line in enumerate(file):
                if index % self.header.shard_size == 0:
                    self._offsets.append(position)
                position += len(line)

    def all_items(self) -> Iterator[Item]:
        """The photos of all shards, in order; errors as of ``items``."""
        for shard in range(self.header.shard_count):
            yield from self.items(shard)

    def items(self, shard: int) -> Iterator[Item]:
        """The photos of a shard, in order.

        Raises:
            InvalidRequestError: a line is not one of a photo.
            OSError: it cannot be read.
        """
        first = self.header.first_of(shard)
        with self._path.open("rb") as file:
            file.seek(self._offsets[shard])
            for offset, line in enumerate(itertools.islice(file, self.header.shard_size)):
                try:
                    item = item_of_json(first + offset, json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError):
                    raise InvalidRequestError(
                        f"{NAME}: photo {first + offset}: expected a line of osamd batch"
                    ) from None
                yield item


def write_manifest(path: Place, header: Header, items: Iterable[Item]) -> Header:
    """Write a manifest, and complete the header with its number of photos and their hash.

    Returns:
        The completed header.

    Raises:
        OSError: it cannot be written.
    """
    lines = [_line(item_to_json(item)) for item in items]
    whole = completed(header, lines)
    with whole_file(path) as file:
        file.write(header_to_json(whole))
        file.writelines(lines)
    return whole


def completed(header: Header, lines: Iterable[bytes]) -> Header:
    """The header with the number of lines and their hash."""
    digest = hashlib.sha256()
    count = 0
    for line in lines:
        digest.update(line)
        count += 1
    return replace(header, count=count, items_sha256=digest.hexdigest())


def check_same(found: Header, header: Header, items: Iterable[Item], out: Place) -> None:
    """Refuse to mix two runs in one folder.

    Args:
        found: of the manifest in the folder.
        header: of this run; ``digest`` may be empty.
        items: of this run.
        out: the folder, for the message.

    Raises:
        InvalidRequestError: they differ; the message says in what.
    """
    wanted = completed(header, (_line(item_to_json(item)) for item in items))
    if not (found.digest and wanted.digest):
        wanted = replace(wanted, digest=found.digest)
    names = [field.name for field in fields(Header) if getattr(found, field.name) != getattr(wanted, field.name)]
    if names:
        what = ", ".join(
            MEANINGS.get(name, f"the {name}") for name in names if name != "items_sha256" or len(names) == 1
        )
        raise InvalidRequestError(
            f"{out} holds another run: {what} changed. Choose another --out, or repeat the arguments of that run;"
            " to continue it as it was, leave out INPUT and the prompts"
        )


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def header_to_json(header: Header) -> bytes:
    """A header as the first line of a manifest."""
    return _line(asdict(header))


def header_of_json(line: bytes, path: Place) -> Header:
    """The inverse of ``header_to_json``.

    Args:
        line: the line.
        path: where it is from, for the message.

    Raises:
        InvalidRequestError: it is not a header, or has another version of the format.
    """
    try:
        values = json.loads(line)
        categories = tuple(Category(**category) for category in values.pop("categories"))
        header = Header(**values | {"texts": tuple(values["texts"]), "categories": categories})
    except (ValueError, TypeError, KeyError, AttributeError):
        header = None
    if header is None or header.version != VERSION:
        raise InvalidRequestError(f"{path} is not a manifest of this version of osamd: choose another --out")
    return header
