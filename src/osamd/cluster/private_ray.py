"""Settings of a Ray on this machine that nobody else reaches: on loopback alone, behind a token. Imports no Ray."""

import secrets
import stat
from pathlib import Path
from typing import Final

# By default Ray gives its workers 15, so that any other program on the machine would go first.
NORMAL_PRIORITY: Final = {"RAY_worker_niceness": "0"}
# In the folder that is given.
TOKEN_FILE: Final = Path("token")


def private_environment(folder: Path) -> dict[str, str]:
    """The environment to set before Ray is imported; writes a token that only this user can read into the folder."""
    token = folder / TOKEN_FILE
    token.touch(stat.S_IRUSR | stat.S_IWUSR)
    token.write_text(secrets.token_hex(32), "ascii")
    return {
        # Without clusters Ray takes the loopback address for this machine's, and listens there alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
