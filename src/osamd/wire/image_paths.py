"""``image_path``: files on the server that requests may read, all below one folder."""

import os
import stat
from pathlib import Path
from typing import Final

from osamd.errors import BodyTooLargeError, InvalidImageError, InvalidRequestError

FIELD: Final = "image_path"
LONGEST_PATH: Final = 4096
# As Linux has it.
MOST_LINKS: Final = 40


class _OutsideError(Exception):
    """The path is outside the folder."""


def read_image_path(name: str, root: Path | None, most: int) -> bytes:
    """Read a file below the root.

    A path that leads outside, by ``..`` or by a symbolic link, is refused lexically: nothing outside the root is
    accessed, so nothing is revealed about it.

    Args:
        name: the path, relative to the root, or absolute and below it.
        root: the folder; None refuses every path.
        most: largest size of the file, in bytes.

    Raises:
        InvalidRequestError: there is no such file in the folder, or it is not a regular file.
        InvalidImageError: the file is empty.
        BodyTooLargeError: the file is too large.
    """
    if root is None:
        raise InvalidRequestError(
            "image_path is not enabled: send the image, or ask the operator to set OSAMD_IMAGE_ROOT", field=FIELD
        )
    if len(name) > LONGEST_PATH:
        raise InvalidRequestError(f"the path has more than {LONGEST_PATH:,} characters", field=FIELD)
    try:
        folder = root.resolve()
        steps = _steps_below(name, (str(root.absolute()), str(folder)))
        data = _read(_real_file(folder, steps), most)
    except _OutsideError:
        message = "expected a path inside the server's image folder, without '..'"
        raise InvalidRequestError(message, field=FIELD) from None
    # UnicodeEncodeError and a NUL are a ValueError.
    except (OSError, ValueError):
        raise InvalidRequestError("no such file in the server's image folder", field=FIELD) from None
    if not data:
        raise InvalidImageError("the file is empty", field=FIELD)
    return data


def _steps_below(name: str, roots: tuple[str, ...]) -> list[str]:
    """The parts of a path below the root, determined lexically.

    Raises:
        _OutsideError: it has ``..``, or is absolute and not below one of the root's spellings.
    """
    if name.startswith("/"):
        for root in roots:
            # The root "/" has its separator already.
            if name.startswith(root.rstrip("/") + "/"):
                name = name.removeprefix(root.rstrip("/"))
                break
        else:
            raise _OutsideError
    steps = [step for step in name.split("/") if step not in {"", "."}]
    if ".." in steps:
        raise _OutsideError
    return steps


def _real_file(folder: Path, steps: list[str]) -> Path:
    """Follow links step by step, never out of the folder.

    Raises:
        OSError: there is no regular file of this name inside, or it has too many links.
    """
    left = steps[::-1]
    done: list[str] = []
    links = 0
    mode = stat.S_IFDIR
    while left:
        step = left.pop()
        if step == "..":
            if not done:
                raise FileNotFoundError
            done.pop()
            continue
        path = folder.joinpath(*done, step)
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            done.append(step)
            continue
        links += 1
        target = os.readlink(path)  # noqa: PTH115 - pathlib would normalize it
        if links > MOST_LINKS:
            raise FileNotFoundError
        if target.startswith("/"):
            if not target.startswith(f"{folder}/".replace("//", "/")):
                raise FileNotFoundError
            target, done = target.removeprefix(str(folder)), []
        left += [part for part in target.split("/") if part not in {"", "."}][::-1]
    if not stat.S_ISREG(mode):
        raise FileNotFoundError
    return folder.joinpath(*done)


def _read(path: Path, most: int) -> bytes:
    # If it was just replaced by a pipe or a link, neither block nor follow it.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, most) + 1)
    if max(size, len(data)) > most:
        raise BodyTooLargeError(f"the file exceeds the limit of {most:,} bytes", field=FIELD)
    return data
