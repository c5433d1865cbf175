"""Guessing keys is slow, and whoever has the right one is not locked out; secrets that can be guessed are refused."""

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from serving import KEY, clean_environment

from osamd.errors import SettingsError
from osamd.server.app import create_app
from osamd.server.guard import guessing
from osamd.server.guard.auth import ADMIN, USER, ApiKeyMiddleware, Caller
from osamd.server.guard.guessing import Guesses
from osamd.server.guard.keys import KeyFile, revoke
from osamd.settings import Settings

PER_MINUTE = 3
LONG_S = 300.0
ALICE, BOB = "alice-secret-Zk41", "bob-secret-9Lpd-c2"


async def welcome(scope: Any, receive: Any, send: Any) -> None:
    """An app that lets everybody in."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def guard(**more: Any) -> ApiKeyMiddleware:
    """A guard with the key that soon has enough of wrong ones."""
    return ApiKeyMiddleware(welcome, api_key=KEY, app_env="", wrong_keys_per_minute=PER_MINUTE, **more)


async def status_of(guarded: ApiKeyMiddleware, secret: str, address: str = "10.0.0.9") -> int:
    """What a request with this key is answered."""
    return await answered(guarded, [(b"x-api-key", secret.encode())], (address, 1))


async def answered(guarded: ApiKeyMiddleware, headers: list[tuple[bytes, bytes]], client: tuple[str, int]) -> int:
    """The status of the answer to a request with these headers."""
    sent: list[dict[str, Any]] = []
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "client": client}

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await guarded(scope, receive, send)
    return int(sent[0]["status"])


async def throttle(guarded: ApiKeyMiddleware, address: str = "10.0.0.9") -> None:
    """Send as many wrong keys from an address as are answered at once."""
    assert [403] * PER_MINUTE == [await status_of(guarded, f"wrong-{number}", address) for number in range(PER_MINUTE)]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """What was compared with the key, in order."""
    pairs: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def recording(given: bytes, key: bytes) -> bool:
        pairs.append((given, key))
        return compare(given, key)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    return pairs


def test_a_throttled_address_has_few_keys_compared(
    monkeypatch: pytest.MonkeyPatch, compared: list[tuple[bytes, bytes]]
) -> None:
    """Of a thousand guesses at once only so many are compared, each after the delay; the rest is refused unseen."""
    monkeypatch.setattr(guessing, "DELAY_S", 0.05)

    async def attack() -> Counter[int]:
        guarded = guard()
        await throttle(guarded)
        compared.clear()
        return Counter(await asyncio.gather(*(status_of(guarded, f"guess-{number}") for number in range(1000))))

    assert {429: 1000} == asyncio.run(attack())
    assert guessing.MOST_DELAYED == len(compared)


def test_right_and_wrong_keys_wait_alike(monkeypatch: pytest.MonkeyPatch, compared: list[tuple[bytes, bytes]]) -> None:
    """Neither is compared, nor answered, before the delay is over; then the right one passes."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        assert not compared
        slept.append(seconds)

    async def attack() -> list[int]:
        guarded = guard()
        await throttle(guarded)
        answers = []
        for secret in ("wrong", KEY, ""):
            compared.clear()
            answers.append(await status_of(guarded, secret))
        return answers

    monkeypatch.setattr("osamd.server.guard.guessing.asyncio.sleep", sleep)

    assert [429, 200, 429] == asyncio.run(attack())
    assert [guessing.DELAY_S] * 3 == slept


def test_a_key_in_use_is_not_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour behind the same address, whose key was right there before, passes while all places are taken."""
    monkeypatch.setattr(guessing, "DELAY_S", LONG_S)

    async def attack() -> tuple[int, int, int]:
        guarded = guard()
        assert 200 == await status_of(guarded, KEY)
        await throttle(guarded)
        guesses = [asyncio.create_task(status_of(guarded, f"guess-{number}")) for number in range(300)]
        while sum(guess.done() for guess in guesses) < len(guesses) - guessing.MOST_DELAYED:
            await asyncio.sleep(0)
        right = await status_of(guarded, KEY)
        elsewhere = await status_of(guarded, "wrong", "10.0.0.10")
        waiting = sum(not guess.done() for guess in guesses)
        for guess in guesses:
            guess.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*guesses)
        return right, elsewhere, waiting

    assert (200, 403, guessing.MOST_DELAYED) == asyncio.run(attack())


def test_a_key_is_proven_at_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key proven elsewhere, long ago, or beside another one waits like any."""
    now = 1000.0
    guesses = Guesses(1, clock=lambda: now)
    guesses.add_right("here", b"old")
    now += guessing.PROVEN_S - 1
    guesses.add_right("here", b"new")
    guesses.add_right("elsewhere", b"other")
    guesses.add_wrong("here")

    assert not guesses.is_slowed("here", b"old")
    assert not guesses.is_slowed("here", b"new")
    assert guesses.is_slowed("here", b"other")
    assert guesses.is_slowed("here", None)
    assert not guesses.is_slowed("elsewhere", b"anything")

    now += 2
    assert guesses.is_slowed("here", b"old")
    now += guessing.MINUTE_S
    assert not guesses.is_slowed("here", b"old")

    monkeypatch.setattr(guessing, "MOST_PROVEN", 3)
    for number in range(9):
        guesses.add_right("here", bytes([number]))
    assert 3 == len(guesses._proven)


@pytest.mark.parametrize(("port", "is_told"), [(4711, True), (0, False)], ids=["unknown proxy", "trusted proxy"])
def test_the_log_tells_of_a_throttled_address(caplog: pytest.LogCaptureFixture, port: int, *, is_told: bool) -> None:
    """Once a minute, and how to tell clients apart where a proxy stands before them all."""

    async def attack() -> None:
        guarded = guard()
        for number in range(PER_MINUTE + 1):
            headers = [(b"x-api-key", b"wrong %d" % number), (b"x-forwarded-for", b"203.0.113.9")]
            await answered(guarded, headers, ("10.0.0.9", port))

    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guessing, "DELAY_S", 0.0)
        asyncio.run(attack())
    (message,) = caplog.messages

    assert "too many wrong keys from 10.0.0.9" in message
    assert is_told == ("OSAMD_TRUSTED_PROXIES" in message)


@pytest.mark.parametrize("secret", ["", "x", KEY[:-1], "x" + KEY[1:], KEY[:-1] + "x", KEY, "x" * 8000, "ü"])
def test_every_key_is_compared_alike(secret: str, compared: list[tuple[bytes, bytes]]) -> None:
    """Whatever was sent, one comparison in constant time, of two digests of one length."""
    asyncio.run(status_of(guard(), secret))

    assert [(hashlib.sha256(secret.encode()).digest(), hashlib.sha256(KEY.encode()).digest())] == compared


@pytest.mark.parametrize("count", [1, 100])
def test_a_key_is_looked_up_once_whatever_the_file_holds(tmp_path: Path, count: int) -> None:
    """By the digest of the sent key: the time depends neither on the secrets nor on the position of a line."""
    lines = [f"name{number} user a-long-enough-secret-{number}" for number in range(count)]
    (tmp_path / "keys").write_text("\n".join(lines) + "\n")
    asked: list[bytes] = []

    class Digests(dict[bytes, Caller]):
        def get(self, digest: bytes, default: Any = None) -> Any:
            asked.append(digest)
            return super().get(digest, default)

    keys = KeyFile(tmp_path / "keys")
    keys._digests = Digests(keys._digests)
    secrets = ["a-long-enough-secret-0", "a-long-enough-secret-99", "a-long-enough-secret", ""]
    for secret in secrets:
        keys.find(secret.encode())

    assert [hashlib.sha256(secret.encode()).digest() for secret in secrets] == asked


# --- secrets that are too short -------------------------------------------------------------------------------------

SHORT = "fifteen-letters"


@pytest.mark.parametrize("secret", ["x", SHORT, f"  {SHORT}  \n"])
def test_short_keys_prevent_startup(secret: str) -> None:
    """The message names the variable and the command that generates a key, but not the secret."""
    with pytest.raises(SettingsError, match=r"API_KEY: .*16 characters.*`osamd keys new") as caught:
        create_app(Settings(api_key=SecretStr(secret)))
    with pytest.raises(ValueError, match=r"API_KEY: .*16 characters"):
        ApiKeyMiddleware(welcome, api_key=secret, app_env="")

    assert secret.strip() not in str(caught.value) or secret == "x"


def test_sixteen_characters_are_enough(tmp_path: Path) -> None:
    """The least that is taken, from the variable and the file."""
    (tmp_path / "keys").write_text(f"alice user {SHORT}-\n")

    create_app(Settings(api_key=SecretStr(f"{SHORT}+"), api_key_file=tmp_path / "keys"))


@pytest.mark.parametrize("secret", ["YOUR_SUPER_SECRET_KEY", "your_local_key_here"])
def test_the_seed_documents_keys_are_long_enough(secret: str) -> None:
    """Whoever copies its commands to the letter has a server that starts."""
    create_app(Settings(api_key=SecretStr(secret)))


def test_development_takes_any_key(tmp_path: Path) -> None:
    """On one's own machine a short key does."""
    (tmp_path / "keys").write_text("alice user short\n")

    create_app(Settings(api_key=SecretStr("x"), api_key_file=tmp_path / "keys", app_env="development"))
    ApiKeyMiddleware(welcome, api_key="x", app_env=" Development")


def test_a_short_key_in_the_file_ends_the_start(tmp_path: Path) -> None:
    """A line of the file counts like the variable; the process ends with a sentence."""
    (tmp_path / "keys").write_text(f"alice user {ALICE}\nbob user {SHORT}\n")
    env = clean_environment({"API_KEY_FILE": str(tmp_path / "keys"), "OSAMD_CACHE": str(tmp_path), "PORT": "0"})
    command = [sys.executable, "-m", "osamd", "serve"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert 6 == ended.returncode
    assert "API_KEY_FILE: line 2 of" in ended.stderr
    assert "osamd keys new" in ended.stderr
    assert SHORT not in ended.stderr
    assert "Traceback" not in ended.stderr


# --- a file that is being written -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        (f"alice user {ALICE[:-1]}", "line 1 of .* truncated"),
        (f"alice user {ALICE}\nbob us", "line 2 of .* truncated"),
        (f"alice user {ALICE}\nbob us\n", "line 2 of .* `name role secret`"),
        ("alice user short\n", "line 1 of .* 16 characters"),
        (f"alice user sha256:{hashlib.sha256(b'').hexdigest()}\n", "line 1 of .* empty secret"),
        ("alice user sha256:\n", "line 1 of .* 64 hexadecimal"),
        ("alice user \0\n", "line 1 of "),
    ],
)
def test_a_file_that_is_half_written_changes_nothing(
    tmp_path: Path, written: str, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncated, emptied or cut off: the keys stay as they were, the log says why, and the whole file then counts."""
    monkeypatch.setattr("osamd.server.guard.keys.LOOK_EVERY_S", 0.0)
    path = tmp_path / "keys"
    path.write_text(f"alice user {ALICE}\nops admin {BOB}\n")
    keys = KeyFile(path)
    path.write_text(written)
    during = [keys.find(secret.encode()) for secret in (ALICE, BOB, ALICE[:-1], "short", "")]
    complaints = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    path.write_text(f"alice user {ALICE}\n")
    after = [keys.find(secret.encode()) for secret in (ALICE, BOB)]

    assert [Caller("alice", USER), Caller("ops", ADMIN), None, None, None] == during
    assert 1 == len(complaints)
    assert "previous keys, revoked ones included, stay valid" in complaints[0]
    assert re.search(reason, complaints[0])
    assert ALICE[:-1] not in caplog.text
    assert [Caller("alice", USER), None] == after


@pytest.mark.parametrize("written", ["alice user " + ALICE, "alice user short\n", "alice user sha256:\n"])
def test_a_half_written_file_ends_the_start(tmp_path: Path, written: str) -> None:
    """There are no earlier keys to stay with, and a part of a secret must not become one."""
    (tmp_path / "keys").write_text(written)

    with pytest.raises(SettingsError, match="line 1 of"):
        create_app(Settings(api_key_file=tmp_path / "keys"))


def test_no_keys_can_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment says so; revoking the last key leaves one. A file that is empty at the start gets keys later."""
    monkeypatch.setattr("osamd.server.guard.keys.LOOK_EVERY_S", 0.0)
    path = tmp_path / "keys"
    path.write_text("")
    keys = KeyFile(path)
    path.write_text(f"\N{ZERO WIDTH NO-BREAK SPACE}alice user {ALICE}\n", "utf-8")
    found = keys.find(ALICE.encode())
    revoke(path, "alice")
    os.utime(path, (1, 1))

    assert Caller("alice", USER) == found
    assert "# no keys\n" == path.read_text()
    assert keys.find(ALICE.encode()) is None
