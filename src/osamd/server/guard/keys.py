"""The keys of ``API_KEY_FILE``: read, checked, and read again when the file changes.

A line is ``name role secret`` or ``name role sha256:HEX``; empty lines and lines that begin with ``#`` are passed over.
A name may stand on two lines with the same role, so that a new secret works before the old one is taken away.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from osamd.errors import SettingsError
from osamd.files import text_encoding
from osamd.server.guard.auth import ADMIN, ANONYMOUS, KEY_NAME, TOO_SHORT, USER, Caller, is_guessable

logger = logging.getLogger("osamd")

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
RESERVED: Final = frozenset({KEY_NAME, ANONYMOUS})
ROLES: Final = (ADMIN, USER)
HASH_PREFIX: Final = "sha256:"
HASH: Final = re.compile(r"[0-9a-f]{64}")
# The hash that `sha256sum` gives where a secret was expected and nothing came.
HASH_OF_NOTHING: Final = hashlib.sha256(b"").digest()
# Left where the last key was revoked: an empty file is taken for one that is being written.
NO_KEYS: Final = "# no keys\n"
# Tells secret scanners, and people, what it is.
SECRET_PREFIX: Final = "osamd_"  # noqa: S105 - what all secrets begin with
SECRET_BYTES: Final = 32
FIELDS: Final = 3
LARGEST_FILE_BYTES: Final = 256 * 1024
LOOK_EVERY_S: Final = 1.0
COMPLAIN_EVERY_S: Final = 60.0

Digests = Mapping[bytes, Caller]
# What changes when a file does: its inode, size, and times of change.
Stamp = tuple[int, int, int, int]


class KeyFile:
    """The keys of a file. Keeps SHA-256 digests, never secrets.

    A change is seen within a second. A file that is broken, cut off, empty, gone or unreadable leaves the keys as they
    were; the log says so every minute until it is fixed.

    Args:
        path: the file.
        may_be_guessable: accept secrets of fewer than 16 characters, as in development.

    Raises:
        SettingsError: it cannot be read, or a line is wrong; the message has the line's number and not its text.
    """

    def __init__(self, path: Path, *, may_be_guessable: bool = False) -> None:
        self._path = path
        self._may_be_guessable = may_be_guessable
        self._stamp: Stamp | None = _stamp(path)
        self._looked = time.monotonic()
        # What was wrong when it was last said, and when that was.
        self._complaint: tuple[str, float] = ("", 0.0)
        self._digests: Digests = read_keys(path, may_be_guessable=may_be_guessable)
        self._warn()

    def find(self, secret: bytes) -> Caller | None:
        """Whose secret this is."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._look()
        digest = hashlib.sha256(secret).digest()
        # What the time of this look-up tells is about a hash, from which no secret follows.
        return self._digests.get(digest)

    def _look(self) -> None:
        self._looked = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            digests = self._reread()
        except SettingsError as error:
            # Tried again at the next look: what was wrong need not be the file's, and then no change tells of its end.
            self._complain(str(error))
            return
        self._digests, self._stamp, self._complaint = digests, stamp, ("", 0.0)
        names = sorted({caller.name for caller in self._digests.values()})
        logger.info("API_KEY_FILE: read again, %d keys: %s", len(self._digests), ", ".join(names) or "none")
        self._warn()

    def _reread(self) -> Digests:
        digests = read_keys(self._path, may_be_guessable=self._may_be_guessable)
        if not digests and self._digests and "#" not in _read(self._path):
            raise SettingsError(f"API_KEY_FILE: {self._path} is empty; write a # into it if no keys are meant")
        return digests

    def _complain(self, message: str) -> None:
        said, when = self._complaint
        if message != said or time.monotonic() - when >= COMPLAIN_EVERY_S:
            self._complaint = (message, time.monotonic())
            logger.error(
                "API_KEY_FILE could not be reloaded; previous keys, revoked ones included, stay valid until it is"
                " fixed: %s",
                message,
            )

    def _warn(self) -> None:
        if not self._digests:
            logger.warning("API_KEY_FILE has no keys")
        is_loose = 0
        with contextlib.suppress(OSError):
            is_loose = self._path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP)
        if is_loose:
            logger.warning("API_KEY_FILE: others may read or change %s; chmod 640 or 600", self._path)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made.

    Attributes:
        secret: what callers send; kept nowhere.
        line: the line for ``API_KEY_FILE``, with the secret's hash.
    """

    secret: str
    line: str


def new_key(name: str, role: str) -> NewKey:
    """Make a key.

    Raises:
        SettingsError: a name that no key may have.
    """
    _check_name(name, "the name")
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return NewKey(secret, f"{name} {role} {HASH_PREFIX}{hashlib.sha256(secret.encode()).hexdigest()}")


def read_keys(path: Path, *, may_be_guessable: bool = False) -> dict[bytes, Caller]:
    """The callers by the SHA-256 of their secret.

    Args:
        path: the file; its last line must end too, or it may be cut off.
        may_be_guessable: accept secrets of fewer than 16 characters.

    Raises:
        SettingsError: it cannot be read, or a line is wrong; the message never has a secret.
    """
    keys: dict[bytes, Caller] = {}
    roles: dict[str, str] = {}
    text = _read(path)
    if text and not text.endswith("\n"):
        last = f"API_KEY_FILE: line {len(text.splitlines())} of {path}"
        raise SettingsError(f"{last}: it may be cut off; end the last line with a newline")
    for number, line in _numbered(text):
        fields = line.split()
        where = f"API_KEY_FILE: line {number} of {path}"
        if len(fields) != FIELDS:
            raise SettingsError(f"{where}: expected `name role secret`")
        name, role, secret = fields
        _check_name(name, where)
        if role not in ROLES:
            raise SettingsError(f"{where}: the role is {' or '.join(ROLES)}")
        if roles.setdefault(name, role) != role:
            raise SettingsError(f"{where}: this name has another role above")
        if is_guessable(secret) and not may_be_guessable and not secret.startswith(HASH_PREFIX):
            raise SettingsError(f"{where}: {TOO_SHORT}")
        digest = _digest(secret, where)
        if keys.setdefault(digest, Caller(name, role)).name != name:
            raise SettingsError(f"{where}: this secret belongs to another name above")
    return keys


def revoke(path: Path, name: str) -> int:
    """Take a name's lines out of the file, in one step; returns how many there were.

    The file keeps its owner and permissions, so that a server that may read it still may. Of a symbolic link the file
    behind it is exchanged.

    Raises:
        SettingsError: it cannot be read or written, or its owner cannot be kept; then it is as it was.
    """
    lines = _read(path).splitlines(keepends=True)
    kept = [line for line in lines if line.startswith("#") or line.split()[:1] != [name]]
    if len(kept) == len(lines):
        return 0
    whole = [line if line.endswith("\n") else line + "\n" for line in kept]
    try:
        _exchange(path.resolve(), whole or [NO_KEYS])
    except OSError as error:
        raise SettingsError(f"API_KEY_FILE: {path}: {error.strerror}") from None
    return len(lines) - len(kept)


def _exchange(path: Path, lines: list[str]) -> None:
    """Write a file anew, in one step."""
    old = path.stat()
    # Beside it, so that the exchange is one step and a reader sees the old file or the new one.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(lines)
            _give(handle, old)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _give(handle: int, old: os.stat_result) -> None:
    """Make a new file the old one's owner's, with its permissions."""
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except OSError:
            whose = f"user {old.st_uid} and group {old.st_gid}"
            raise SettingsError(
                f"API_KEY_FILE: nothing was revoked: the new file cannot be given to {whose}, as the old one is, and"
                " the server might not be allowed to read it; run this as its owner or as root"
            ) from None
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _numbered(text: str) -> list[tuple[int, str]]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _check_name(name: str, where: str) -> None:
    if NAME.fullmatch(name) is None or name in RESERVED:
        raise SettingsError(f"{where}: a name is 1 to 64 letters, digits and . _ @ -, and not {' or '.join(RESERVED)}")


def _digest(secret: str, where: str) -> bytes:
    if not secret.startswith(HASH_PREFIX):
        return hashlib.sha256(secret.encode()).digest()
    text = secret.removeprefix(HASH_PREFIX).lower()
    if HASH.fullmatch(text) is None:
        raise SettingsError(f"{where}: after {HASH_PREFIX} come 64 hexadecimal digits")
    digest = bytes.fromhex(text)
    if digest == HASH_OF_NOTHING:
        raise SettingsError(f"{where}: this is the hash of an empty secret")
    return digest


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"API_KEY_FILE: {path}: {error.strerror}") from None
    if len(data) > LARGEST_FILE_BYTES:
        raise SettingsError(f"API_KEY_FILE: {path} has more than {LARGEST_FILE_BYTES:,} bytes")
    try:
        return data.decode(text_encoding(data))
    except UnicodeDecodeError:
        raise SettingsError(f"API_KEY_FILE: {path} is not UTF-8") from None


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
