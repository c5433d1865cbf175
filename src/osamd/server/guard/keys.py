"""The keys of ``API_KEY_FILE``: read, checked, and read again when the file changes.

A line is ``name role secret`` or ``name role sha256:HEX``; empty lines and lines that begin with ``#`` are ignored.
A name may have several lines with the same role, so that a new secret works before the old one is removed.
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
# The hash of an empty input, as from `sha256sum` by mistake.
HASH_OF_NOTHING: Final = hashlib.sha256(b"").digest()
# Written when the last key is revoked: an empty file would be taken for one that is being written.
NO_KEYS: Final = "# no keys\n"
# Prefix of generated secrets, for secret scanners and people.
SECRET_PREFIX: Final = "osamd_"  # noqa: S105 - what all secrets begin with
SECRET_BYTES: Final = 32
FIELDS: Final = 3
LARGEST_FILE_BYTES: Final = 256 * 1024
LOOK_EVERY_S: Final = 1.0
COMPLAIN_EVERY_S: Final = 60.0

Digests = Mapping[bytes, Caller]
# Changes when the file does: inode, size, modification and change time.
Stamp = tuple[int, int, int, int]


class KeyFile:
    """The keys of a file. Keeps SHA-256 digests, never secrets.

    A change is seen within a second. If the file is malformed, truncated, empty, missing or unreadable, the previous
    keys stay valid; the log says so every minute until it is fixed.

    Args:
        path: the file.
        may_be_guessable: accept secrets shorter than 16 characters, as in development.

    Raises:
        SettingsError: it cannot be read, or a line is invalid; the message has the line's number, not its text.
    """

    def __init__(self, path: Path, *, may_be_guessable: bool = False) -> None:
        self._path = path
        self._may_be_guessable = may_be_guessable
        self._stamp: Stamp | None = _stamp(path)
        self._looked = time.monotonic()
        # The problem that was last logged, and when.
        self._complaint: tuple[str, float] = ("", 0.0)
        self._digests: Digests = read_keys(path, may_be_guessable=may_be_guessable)
        self._warn()

    def find(self, secret: bytes) -> Caller | None:
        """The owner of a secret."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._look()
        digest = hashlib.sha256(secret).digest()
        # The time of this lookup only reveals something about a hash, from which no secret follows.
        return self._digests.get(digest)

    def _look(self) -> None:
        self._looked = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            digests = self._reread()
        except SettingsError as error:
            # Retried at the next check: the cause may lie outside the file, which then does not change when it is gone.
            self._complain(str(error))
            return
        self._digests, self._stamp, self._complaint = digests, stamp, ("", 0.0)
        names = sorted({caller.name for caller in self._digests.values()})
        logger.info("API_KEY_FILE reloaded, %d keys: %s", len(self._digests), ", ".join(names) or "none")
        self._warn()

    def _reread(self) -> Digests:
        digests = read_keys(self._path, may_be_guessable=self._may_be_guessable)
        if not digests and self._digests and "#" not in _read(self._path):
            raise SettingsError(
                f"API_KEY_FILE: {self._path} is empty; to have no keys, write a comment such as # no keys"
            )
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
            logger.warning("API_KEY_FILE: %s is accessible to other users; run chmod 640 or 600", self._path)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A newly generated key.

    Attributes:
        secret: what callers send; not stored.
        line: the line for ``API_KEY_FILE``, with the secret's hash.
    """

    secret: str
    line: str


def new_key(name: str, role: str) -> NewKey:
    """Generate a key.

    Raises:
        SettingsError: the name is invalid.
    """
    _check_name(name, "the name")
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    return NewKey(secret, f"{name} {role} {HASH_PREFIX}{hashlib.sha256(secret.encode()).hexdigest()}")


def read_keys(path: Path, *, may_be_guessable: bool = False) -> dict[bytes, Caller]:
    """The callers by the SHA-256 of their secret.

    Args:
        path: the file; its last line must end with a newline, or it may be truncated.
        may_be_guessable: accept secrets shorter than 16 characters.

    Raises:
        SettingsError: it cannot be read, or a line is invalid; the message never contains a secret.
    """
    keys: dict[bytes, Caller] = {}
    roles: dict[str, str] = {}
    text = _read(path)
    if text and not text.endswith("\n"):
        last = f"API_KEY_FILE: line {len(text.splitlines())} of {path}"
        raise SettingsError(f"{last}: expected a newline at the end of the last line; the file may be truncated")
    for number, line in _numbered(text):
        fields = line.split()
        where = f"API_KEY_FILE: line {number} of {path}"
        if len(fields) != FIELDS:
            raise SettingsError(f"{where}: expected `name role secret`")
        name, role, secret = fields
        _check_name(name, where)
        if role not in ROLES:
            raise SettingsError(f"{where}: expected the role {' or '.join(ROLES)}")
        if roles.setdefault(name, role) != role:
            raise SettingsError(f"{where}: this name has a different role on an earlier line")
        if is_guessable(secret) and not may_be_guessable and not secret.startswith(HASH_PREFIX):
            raise SettingsError(f"{where}: {TOO_SHORT}")
        digest = _digest(secret, where)
        if keys.setdefault(digest, Caller(name, role)).name != name:
            raise SettingsError(f"{where}: this secret belongs to another name on an earlier line")
    return keys


def revoke(path: Path, name: str) -> int:
    """Remove a name's lines from the file atomically; returns how many there were.

    The file keeps its owner and permissions, so that the server can still read it. For a symbolic link, its target is
    replaced.

    Raises:
        SettingsError: it cannot be read or written, or its owner cannot be kept; the file is then unchanged.
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
    """Replace a file atomically."""
    old = path.stat()
    # In the same folder, so that the rename is atomic and readers see either the old file or the new one.
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
    """Give a new file the owner and permissions of the old one."""
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(handle, old.st_uid, old.st_gid)
        except OSError:
            whose = f"user {old.st_uid} and group {old.st_gid}"
            raise SettingsError(
                f"API_KEY_FILE: nothing was revoked: the new file cannot be given to {whose}, the owner of the old one,"
                " so the server might not be able to read it; run this as its owner or as root"
            ) from None
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _numbered(text: str) -> list[tuple[int, str]]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _check_name(name: str, where: str) -> None:
    if NAME.fullmatch(name) is None or name in RESERVED:
        raise SettingsError(
            f"{where}: expected a name of 1 to 64 letters, digits and . _ @ -, other than {' or '.join(RESERVED)}"
        )


def _digest(secret: str, where: str) -> bytes:
    if not secret.startswith(HASH_PREFIX):
        return hashlib.sha256(secret.encode()).digest()
    text = secret.removeprefix(HASH_PREFIX).lower()
    if HASH.fullmatch(text) is None:
        raise SettingsError(f"{where}: expected 64 hexadecimal digits after {HASH_PREFIX}")
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
