"""Keys with names and roles: the file, its changes under a running server, roles, and the command that makes keys."""

import hashlib
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from asking import CLICK, GENERATE, click, refusal
from pictures import base64_of
from serving import KEY, RunningServer, clean_environment, run_server
from waiting import WAIT_S

from osamd.errors import SettingsError
from osamd.server.guard import keys
from osamd.server.guard.auth import ADMIN, USER, Caller
from osamd.server.guard.keys import KeyFile, new_key, read_keys, revoke

ALICE, BOB, OPS = "alice-secret-Zk41", "bob-secret-9Lpd-c2", "ops-secret-77Qx-d5"


def hashed(secret: str) -> str:
    """A secret as the file may hold it."""
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with a user, a hashed user and an admin."""
    path = tmp_path / "keys"
    path.write_text(f"# people\n\nalice user {ALICE}\nbob user {hashed(BOB)}\n  ops   admin\t{OPS}  \n")
    path.chmod(0o600)
    return path


def test_lines_are_secrets_or_hashes(file: Path) -> None:
    """A secret and its hash do the same; comments, empty lines and odd spacing are passed over."""
    found = KeyFile(file)

    assert Caller("alice", USER) == found.find(ALICE.encode())
    assert Caller("bob", USER) == found.find(BOB.encode())
    assert Caller("ops", ADMIN) == found.find(OPS.encode())


@pytest.mark.parametrize(
    "secret", ["", "alice", "user", ALICE[:-1], f"{ALICE} ", hashed(BOB), hashed(ALICE), "# people"]
)
def test_names_parts_and_hashes_of_keys_are_refused(file: Path, secret: str) -> None:
    """Someone who reads the file of hashes cannot use what it contains as a key."""
    assert KeyFile(file).find(secret.encode()) is None


def test_a_name_may_have_two_secrets(tmp_path: Path) -> None:
    """So that a new one works before the old one is taken away."""
    path = tmp_path / "keys"
    path.write_text(f"alice user {ALICE}\nalice user {hashed(BOB)}\n")

    assert {Caller("alice", USER)} == set(read_keys(path).values())
    assert 2 == len(read_keys(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alice user", "`name role secret`"),
        ("alice user se cret-7Hq", "`name role secret`"),
        ("alice root secret-7Hq", "expected the role"),
        ("API_KEY admin secret-7Hq", "expected a name"),
        ("anonymous user secret-7Hq", "expected a name"),
        ("a/b user secret-7Hq", "expected a name"),
        ("alice user sha256:abc", "64 hexadecimal"),
        ("bob admin other-secret-7Hq", "a different role"),
        (f"carol user {BOB}", "another name"),
    ],
)
def test_a_wrong_line_is_named_without_its_text(file: Path, line: str, message: str) -> None:
    """The message has the number of the line and what is wanted, never what stands there."""
    file.write_text(f"bob user {BOB}\n{line}\n")

    with pytest.raises(SettingsError, match=rf"line 2 of .*{message}") as caught:
        read_keys(file)

    assert "7Hq" not in str(caught.value)
    assert BOB not in str(caught.value)


def test_no_secret_is_kept(file: Path) -> None:
    """Only hashes are in memory, so no dump or repr has a secret."""
    kept = repr(vars(KeyFile(file)))

    assert "alice" in kept
    assert ALICE not in kept


def test_a_loose_file_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that others may read is used, and said so; one of its owner's alone is not spoken of."""
    KeyFile(file)
    silent = list(caplog.messages)
    file.chmod(0o644)
    KeyFile(file)

    assert [] == silent
    assert any("is accessible to other users" in message for message in caplog.messages)


def test_an_overlong_file_is_refused(file: Path) -> None:
    """A wrong path, such as a log, is not read to its end."""
    file.write_bytes(b"#" * (keys.LARGEST_FILE_BYTES + 1))

    with pytest.raises(SettingsError, match="more than"):
        read_keys(file)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the file for every request."""
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("broken", [f"alice user {ALICE}\nnonsense {OPS}\n", None], ids=["broken", "gone"])
def test_a_broken_file_keeps_the_old_keys(file: Path, broken: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """The keys stay, the log says why, once and without a secret; when the file is mended, it counts again."""
    caplog.set_level(logging.INFO, "osamd")
    found = KeyFile(file)
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    during = [found.find(BOB.encode()), found.find(BOB.encode())]
    complaints = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    file.write_text(f"alice user {ALICE}\n")

    assert [Caller("bob", USER)] * 2 == during
    assert 1 == len(complaints)
    assert "could not be reloaded" in complaints[0]
    assert OPS not in caplog.text
    assert found.find(BOB.encode()) is None
    assert Caller("alice", USER) == found.find(ALICE.encode())


def test_a_new_key_works_and_its_line_tells_nothing(tmp_path: Path) -> None:
    """The line has the hash; the secret is long, and other each time."""
    first, second = new_key("alice", USER), new_key("alice", USER)
    (tmp_path / "keys").write_text(first.line + "\n")

    assert Caller("alice", USER) == KeyFile(tmp_path / "keys").find(first.secret.encode())
    assert first.secret not in first.line
    assert first.secret != second.secret
    assert re.fullmatch(r"osamd_[\w-]{43}", first.secret)
    with pytest.raises(SettingsError):
        new_key("API_KEY", ADMIN)


def test_revoking_leaves_the_rest(file: Path) -> None:
    """All lines of a name go, comments and others stay as they are, and so do the file's permissions."""
    file.write_text(file.read_text() + f"alice user {KEY}\n# alice has left\n")
    counts = [revoke(file, "alice"), revoke(file, "alice"), revoke(file, "nobody")]

    assert [2, 0, 0] == counts
    assert {"bob", "ops"} == {caller.name for caller in read_keys(file).values()}
    assert file.read_text().startswith("# people\n\nbob user ")
    assert file.read_text().endswith("# alice has left\n")
    assert 0o600 == file.stat().st_mode & 0o777
    assert [file] == list(file.parent.iterdir())


def test_revoking_follows_a_link(file: Path, tmp_path: Path) -> None:
    """The file behind it changes, as the server reads that, and the link stays one."""
    link = tmp_path / "link"
    link.symlink_to(file)

    assert 1 == revoke(link, "alice")
    assert link.is_symlink()
    assert {"bob", "ops"} == {caller.name for caller in read_keys(file).values()}


@pytest.fixture
def strangers(file: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The key file seems to be another user's; who new files are given to instead is remembered."""
    given: list[tuple[int, int]] = []
    real = os.fstat
    owner = (file.stat().st_uid + 1, file.stat().st_gid)
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    monkeypatch.setattr(os, "fstat", lambda handle: os.stat_result((*real(handle)[:4], *owner, *real(handle)[6:])))
    return given


def test_the_key_file_keeps_its_owner(file: Path, strangers: list[tuple[int, int]]) -> None:
    """A key file rewritten by root stays readable for a server that is not root; otherwise the key would stay valid."""
    revoke(file, "alice")

    assert [(file.stat().st_uid, file.stat().st_gid)] == strangers


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_the_file_to_its_owner(file: Path) -> None:
    """The same in earnest."""
    os.chown(file, 999, 998)
    revoke(file, "alice")

    assert (999, 998, 0o600) == (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777)


@pytest.mark.usefixtures("strangers")
def test_revoking_fails_if_the_file_would_change_owner(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails and leaves the file unchanged: a server that cannot read the new file would keep the key valid."""

    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", forbidden)
    before = file.read_text()
    with pytest.raises(SettingsError, match="nothing was revoked"):
        revoke(file, "alice")

    assert before == file.read_text()
    assert [file] == list(file.parent.iterdir())


@pytest.mark.usefixtures("impatient")
def test_an_unreadable_key_file_is_logged_until_it_is_fixed(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a minute, since revoked keys stay valid until then; it is retried even if the file has not changed."""
    found = KeyFile(file)
    read = keys.read_keys

    def failing(path: Path, **_: object) -> dict[bytes, Caller]:
        raise SettingsError(f"API_KEY_FILE: {path}: Permission denied")

    file.write_text(f"alice user {ALICE}\n")
    monkeypatch.setattr(keys, "read_keys", failing)
    during = [found.find(BOB.encode()) for _ in range(3)]
    once = len(caplog.messages)
    monkeypatch.setattr(keys, "COMPLAIN_EVERY_S", 0.0)
    found.find(BOB.encode())
    twice = len(caplog.messages)
    monkeypatch.setattr(keys, "read_keys", read)

    assert [Caller("bob", USER)] * 3 == during
    assert (1, 2) == (once, twice)
    assert all("revoked ones included" in message for message in caplog.messages)
    assert found.find(BOB.encode()) is None


# --- a running server -----------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(tmp_path: Path, file: Path) -> Iterator[RunningServer]:
    """A server with the file's keys alone, and no ``API_KEY``."""
    with run_server(cache=tmp_path, env={"API_KEY_FILE": str(file)}) as running:
        yield running


def status_with(running: RunningServer, secret: str) -> int:
    """What ``GET /`` answers to this key."""
    with running.client(headers={"X-API-Key": secret}) as client:
        return client.get("/").status_code


def wait_for(running: RunningServer, secret: str, status: int) -> None:
    """Until the key gets this answer."""
    until = time.monotonic() + WAIT_S
    while status_with(running, secret) != status:
        assert time.monotonic() < until, f"never {status}"
        time.sleep(0.05)


def test_keys_change_without_a_restart(keyed: RunningServer, file: Path, photo: bytes) -> None:
    """A key is let in once its line is there, refused once it is gone, and the log tells names without secrets."""
    assert [200, 200, 403] == [status_with(keyed, secret) for secret in (ALICE, BOB, KEY)]
    file.write_text(f"carol user {hashed(KEY)}\nbob user {BOB}\n")
    wait_for(keyed, KEY, 200)
    with keyed.client(headers={"X-API-Key": KEY}) as client:
        answered = client.post(GENERATE, content=photo)
    file.write_text("bob user broken line\n")
    until = time.monotonic() + WAIT_S
    while "API_KEY_FILE could not be reloaded" not in keyed.log_text() and time.monotonic() < until:
        assert 200 == status_with(keyed, KEY)
        time.sleep(0.05)
    keyed.log_line("API_KEY_FILE could not be reloaded")
    keyed.log_line("key=carol")
    log = keyed.log_text()

    assert 403 == status_with(keyed, ALICE)
    assert 200 == answered.status_code
    assert "reloaded, 2 keys: bob, carol" in log
    assert "line 1 of" in log
    assert not any(secret in log for secret in (ALICE, BOB, OPS, KEY))


def test_embeddings_belong_to_a_name(keyed: RunningServer, file: Path, photo: bytes) -> None:
    """A handle is good for its key's name alone, whichever of its secrets is sent; others hear that it is unknown."""
    with keyed.client(headers={"X-API-Key": ALICE}) as client:
        image_id = client.post("/api/embed", content=photo).json()["image_id"]
        own = client.post(GENERATE, json={"image_id": image_id, "prompt": click(CLICK)})
    with keyed.client(headers={"X-API-Key": OPS}) as client:
        others = refusal(client.post(GENERATE, json={"image_id": image_id}))
        cannot_delete = client.delete(f"/api/images/{image_id}").status_code
        same_image = client.post(GENERATE, content=photo)
    file.write_text(f"alice user {hashed(BOB)}\nops admin {OPS}\n")
    wait_for(keyed, ALICE, 403)
    with keyed.client(headers={"X-API-Key": BOB}) as client:
        rotated = client.post(GENERATE, json={"image_id": image_id})

    assert 200 == own.status_code
    assert (410, "embedding_expired") == (others["status"], others["code"])
    assert 410 == cannot_delete
    assert "miss" == same_image.headers["X-Osamd-Cache"]
    assert 200 == rotated.status_code


def seconds_left(client: httpx2.Client) -> float:
    """How long the one model that is loaded stays if nobody uses it."""
    (model,) = client.get("/api/ps").json()["models"]
    return (datetime.fromisoformat(model["expires_at"]) - datetime.now(UTC)).total_seconds()


def test_users_cannot_trigger_pulls_or_pin_models(tmp_path: Path, file: Path, photo: bytes) -> None:
    """A user's request starts no download, and cannot change how long a preloaded model stays loaded."""
    env = {"API_KEY_FILE": str(file), "OSAMD_PULL": "auto", "OSAM_BLOB_ENDPOINT": "http://127.0.0.1:9"}
    env |= {"OSAMD_KEEP_ALIVE": "10m"}
    body = {"image": base64_of(photo)}
    with run_server(cache=tmp_path, env=env) as running:
        with running.client(headers={"X-API-Key": ALICE}) as client:
            pulling = [
                refusal(client.post(path, json=body | {"model": "efficientsam"})) for path in (GENERATE, "/api/embed")
            ]
            pinning = refusal(client.post(GENERATE, json=body | {"keep_alive": -1}))
            staying = client.post(GENERATE, json=body | {"keep_alive": "8784h"})
            longest_s = seconds_left(client)
            for shorter in ("5m", 0):
                client.post(GENERATE, json=body | {"keep_alive": shorter})
            kept_s = seconds_left(client)
        with running.client(headers={"X-API-Key": OPS}) as client:
            client.post(GENERATE, json=body | {"keep_alive": "8784h"})
            admins_s = seconds_left(client)
            pinned = client.post(GENERATE, json=body | {"keep_alive": -1})

    assert [(403, "admin_only", "model")] * 2 == [(one["status"], one["code"], one["field"]) for one in pulling]
    assert (403, "admin_only", "keep_alive") == (pinning["status"], pinning["code"], pinning["field"])
    assert 200 == staying.status_code
    assert 300 < longest_s <= 600
    # It is preloaded, so nobody but an admin lets it go.
    assert 300 < kept_s <= 600
    assert admins_s > 86400
    assert "pull" not in running.log_text()
    assert 200 == pinned.status_code


def test_wrong_keys_are_throttled_and_right_ones_pass(keyed: RunningServer) -> None:
    """After 20 wrong keys the address gets 429, late, and when to come back; no key is 403; a right key passes."""
    with keyed.client(headers={}) as client:
        keyless = {client.get("/").status_code for _ in range(30)}
        wrong = [client.get("/", headers={"X-API-Key": f"wrong-{number}"}) for number in range(23)]
        assert 403 == client.get("/").status_code
    right = [status_with(keyed, ALICE) for _ in range(3)]
    throttled = refusal(wrong[-1])

    assert {403} == keyless
    assert [403] * 20 + [429] * 3 == [answer.status_code for answer in wrong]
    assert "too_many_wrong_keys" == throttled["code"]
    assert 0 < int(wrong[-1].headers["Retry-After"]) <= 60
    assert [200] * 3 == right
    assert keyed.log_line("code=too_many_wrong_keys")


def test_a_broken_file_ends_the_start(tmp_path: Path, file: Path) -> None:
    """A server does not start on keys it cannot read, and says which line it was."""
    file.write_text(f"alice {ALICE}\n")
    env = clean_environment({"API_KEY_FILE": str(file), "OSAMD_CACHE": str(tmp_path), "PORT": "0"})
    command = [sys.executable, "-m", "osamd", "serve"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)

    assert 6 == ended.returncode
    assert "line 1 of" in ended.stderr
    assert ALICE not in ended.stderr
    assert "Traceback" not in ended.stderr


# --- the command ----------------------------------------------------------------------------------------------------


def keys_command(*arguments: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What ``osamd keys`` prints."""
    env = clean_environment({} if file is None else {"API_KEY_FILE": str(file)})
    command = [sys.executable, "-m", "osamd", "keys", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_new_list_and_revoke(file: Path) -> None:
    """The line goes to stdout, the secret to stderr alone; list and revoke tell names and roles."""
    made = keys_command("new", "carol", "--role", "admin")
    with file.open("a") as opened:
        opened.write(made.stdout)
    listed = keys_command("list", file=file)
    secret = made.stderr.split()[-1]
    known = KeyFile(file).find(secret.encode())
    revoked = keys_command("revoke", "carol", file=file)
    again = keys_command("revoke", "carol", file=file)

    assert Caller("carol", ADMIN) == known
    assert secret not in made.stdout
    assert "alice user\nbob user\ncarol admin\nops admin\n" == listed.stdout
    assert [0, 2] == [revoked.returncode, again.returncode]
    assert KeyFile(file).find(secret.encode()) is None


@pytest.mark.parametrize("arguments", [("new",), ("revoke",), ("list", "x"), ("list",), ("new", "a b")])
def test_commands_that_make_no_sense(arguments: tuple[str, ...]) -> None:
    """They end with a sentence and not with a traceback."""
    ended = keys_command(*arguments)

    assert ended.returncode in {2, 6}
    assert ended.stderr.startswith("osamd: ")
    assert 1 == ended.stderr.count("\n")


def test_the_file_is_not_asked_for_by_every_request(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second is often enough for a rotation, and costs nothing under load."""
    looks: list[Path] = []
    found = KeyFile(file)
    monkeypatch.setattr(keys, "_stamp", looks.append)
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 3600.0)
    for _ in range(100):
        found.find(b"guess")

    assert [] == looks


def test_requests_are_counted_to_a_name(keyed: RunningServer) -> None:
    """The log has the key's name, the address and the code of each refusal."""
    with keyed.client(headers={"X-API-Key": ALICE}) as client:
        client.get("/nowhere")
    status_with(keyed, "wrong")

    assert " key=alice from=127.0.0.1 code=not_found" in keyed.log_line("/nowhere 404")
    assert " from=127.0.0.1 code=access_denied" in keyed.log_line("GET / 403")
