import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import CLICK, ask, click
from pulling import NOBODY
from serving import KEY, clean_environment, run_server

from osamd.errors import SettingsError
from osamd.settings import load_settings

POWERLESS = (sys.executable, str(Path(__file__).parents[1] / "powerless_process.py"))


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that another user has closed to everybody else."""
    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o700 if os.geteuid() == 0 else 0)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("mode", [0o700, 0o555], ids=["another user's", "read-only"])
def test_built_in_model_needs_no_cache(closed: Path, tmp_path: Path, photo: bytes, mode: int) -> None:
    """With a cache that cannot be read or written, clicks still work; the log says why nothing can be stored."""
    if mode != 0o700:
        closed.chmod(mode)
    env = {
        "API_KEY": KEY,
        "OSAMD_CACHE": str(closed / "cache"),
        "OSAMD_PULL": "auto",
        "OSAMD_EMBEDDING_DISK_BYTES": "1000000",
    }
    with run_server(cache=tmp_path, env=env, command=(*POWERLESS, "serve")) as running, running.client() as client:
        assert ask(client, photo, prompt=click(CLICK))["annotations"]
        assert 200 == client.get("/api/catalog").status_code
        lines = client.post("/api/pull", json={"model": "efficientsam"}).text.splitlines()
        assert "storage_failed" == json.loads(lines[-1])["code"]
        assert client.request("DELETE", "/api/delete", json={"model": "efficientsam"}).status_code in {404, 503}
        log = running.log_text()
    assert f"models cannot be pulled, and graphs and embeddings are not stored: {closed} cannot be" in log
    assert "OSAMD_CACHE" in log
    assert "Traceback" not in log


def test_commands_with_an_unusable_cache(closed: Path, tmp_path: Path) -> None:
    """``doctor`` reports the folder, ``list`` shows the built-in model, and ``pull`` says what to do, in one line."""
    env = clean_environment({"OSAMD_CACHE": str(closed / "cache")})
    secret = tmp_path / "env"
    secret.write_text("A=1")
    if os.geteuid() == 0:
        os.chown(secret, NOBODY, NOBODY)
    secret.chmod(0o600 if os.geteuid() == 0 else 0)

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([*POWERLESS, *arguments], env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    code, text, _ = run("doctor")
    assert 1 == code
    assert "!!  cache" in text
    assert f"{closed} cannot be entered" in text
    assert "ok  builtin:latest" in text
    for file in (closed / "env", secret):
        code, _, error = run("serve", "--env-file", str(file))
        assert code
        assert str(file) in error
        assert 1 == len(error.splitlines()), error
    code, text, _ = run("list")
    assert (0, True) == (code, "builtin:latest" in text)
    code, _, error = run("pull", "efficientsam")
    assert code
    assert "set OSAMD_CACHE to a folder that this user may write" in error.splitlines()[-1]
    assert "Traceback" not in error


def test_home_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME and without an entry in the user database the home is /, as in containers; no ``~`` is made."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("OSAMD_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    settings = load_settings()
    assert Path("/.cache/osam") == settings.cache
    assert settings.user_catalog is None
    with pytest.raises(SettingsError, match=r"OSAMD_CACHE: .*the user after ~ has no home"):
        load_settings(cache="~nosuch/cache")
