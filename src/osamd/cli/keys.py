"""``osamd keys``: create, list and revoke keys."""

import argparse
import sys

from osamd.errors import InvalidRequestError, SettingsError
from osamd.server.guard.keys import new_key, read_keys, revoke
from osamd.settings import load_settings


def run(arguments: argparse.Namespace) -> int:
    """Create, list or revoke."""
    if (arguments.name is None) != (arguments.action == "list"):
        raise InvalidRequestError(f"keys {arguments.action} takes {'no' if arguments.name else 'a'} name")
    if arguments.action == "new":
        key = new_key(arguments.name, arguments.role)
        print(f"osamd: the secret, shown only once: {key.secret}", file=sys.stderr)
        print(key.line)
        return 0
    path = load_settings().api_key_file
    if path is None:
        raise SettingsError("API_KEY_FILE is not set")
    if arguments.action == "list":
        callers = read_keys(path, may_be_guessable=True).values()
        print("\n".join(sorted({f"{caller.name} {caller.role}" for caller in callers})))
        return 0
    count = revoke(path, arguments.name)
    print(f"osamd: removed {count or 'no'} {'key' if count == 1 else 'keys'} named {arguments.name}", file=sys.stderr)
    return 0 if count else InvalidRequestError.exit_code
