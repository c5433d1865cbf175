"""Input images and output files of commands; ``-`` means standard input or output."""

import mimetypes
import sys
from pathlib import Path
from typing import Final

from osamd.errors import InvalidImageError, InvalidRequestError

STANDARD: Final = "-"


def read_image(name: str) -> bytes:
    """Read an encoded image.

    Args:
        name: a file, or ``-`` for standard input.

    Raises:
        InvalidImageError: the file cannot be read.
    """
    if name == STANDARD:
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidImageError("--image -: expected an image on standard input: pipe one into this command")
        return sys.stdin.buffer.read()
    if "://" in name:
        raise InvalidImageError(f"{name}: expected a file or -, not a URL: download it first")
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidImageError(f"{name}: {reason_of(error)}") from None


def check_output(name: str, flag: str, kind: str, *, must_exist: bool = False) -> None:
    """Reject an output file whose suffix does not match its format.

    Args:
        name: a file, or ``-`` for standard output.
        flag: the flag that names it.
        kind: the media type that is written.
        must_exist: also reject it if its folder does not exist.

    Raises:
        InvalidRequestError: it was rejected; the message says what is expected.
    """
    if name == STANDARD:
        return
    named, _ = mimetypes.guess_type(name)
    if named not in {None, kind}:
        expected = mimetypes.guess_extension(kind)
        raise InvalidRequestError(f"{flag} {name}: the output is {kind}; expected a name that ends in {expected}")
    path = Path(name)
    if must_exist and path.is_dir():
        raise InvalidRequestError(f"{name}: Is a directory")
    if must_exist and not path.parent.exists():
        raise InvalidRequestError(f"{name}: No such file or directory")


def write_output(data: bytes, name: str) -> None:
    """Write to a file, reporting it on stderr, or to standard output.

    Raises:
        InvalidRequestError: the file cannot be written; the message says why.
    """
    if name == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(name).write_bytes(data)
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{name}: {reason_of(error)}") from None
    print(f"osamd: wrote {name}", file=sys.stderr)


def reason_of(error: Exception) -> str:
    """Why a file could not be opened, without its name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
