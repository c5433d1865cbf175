"""Writes JSON in pieces, each small enough not to hold the interpreter lock for long."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic_core import to_json

from osamd.types import IntArray

# Pairs formatted at a time, which takes less than a millisecond.
PAIRS_AT_ONCE: Final = 4096
# Pieces of a reply are joined up to this size, so that there are few.
JOINED_BYTES: Final = 64 * 1024

# Called with the bytes a reply takes so far, without its masks; raises if there is not enough memory.
Room = Callable[[int], None]


class ReplyPieces:
    """The pieces of a reply so far.

    Args:
        room: called with their total size in bytes.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._written: list[bytes] = []
        self._small: list[bytes] = []
        self._small_nbytes = 0
        self._nbytes = 0

    def expect(self, nbytes: int) -> None:
        """Reserve more bytes while a piece is created."""
        self._room(self._nbytes + nbytes)

    def add(self, piece: bytes) -> None:
        """Append a piece."""
        self._small.append(piece)
        self._small_nbytes += len(piece)
        if self._small_nbytes >= JOINED_BYTES:
            self._join()

    def add_all(self, pieces: Iterable[bytes]) -> Generator[None, None, None]:
        """Append pieces as they are created; yields now and then."""
        for piece in pieces:
            before = len(self._written)
            self.add(piece)
            if len(self._written) > before:
                yield

    def all(self) -> list[bytes]:
        """All of them."""
        self._join()
        return self._written

    def _join(self) -> None:
        self._written.append(b"".join(self._small))
        self._nbytes += self._small_nbytes
        self._small, self._small_nbytes = [], 0
        self._room(self._nbytes)


def json_pieces(value: Any) -> Iterator[bytes]:
    """Write mappings and lists of JSON values; (n, 2) arrays of integers are lists of pairs."""
    if isinstance(value, Mapping):
        yield b"{"
        for index, (name, item) in enumerate(value.items()):
            yield (b"," if index else b"") + to_json(name) + b":"
            yield from json_pieces(item)
        yield b"}"
    elif isinstance(value, list | tuple):
        yield b"["
        for index, item in enumerate(value):
            if index:
                yield b","
            yield from json_pieces(item)
        yield b"]"
    elif value is None or isinstance(value, str | int | float):
        yield to_json(value)
    else:
        yield from pairs(value)


def pairs(values: IntArray) -> Iterator[bytes]:
    """Write an (n, 2) array of integers, at least one pair, as a list of pairs."""
    for start in range(0, len(values), PAIRS_AT_ONCE):
        some = values[start : start + PAIRS_AT_ONCE]
        written = b",[%d,%d]" * len(some) % tuple(some.ravel().tolist())
        yield written if start else b"[" + written[1:]
    yield b"]"
