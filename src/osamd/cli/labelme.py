"""``osamd labelme``: start the user's labelme with its AI models answered by a server."""

import argparse
import os
import sys
from typing import Final

from osamd.client import DEFAULT_URL, Client
from osamd.errors import OsamdError
from osamd.integrations import labelme

URL_VARIABLE: Final = "OSAMD_URL"
KEY_VARIABLE: Final = "OSAMD_API_KEY"
# A host that was scaled to zero may need this long, and nothing is frozen yet.
WAKE_UP_S: Final = 60.0
# From labelme's first click on: its window is frozen meanwhile. A model may have to be loaded first.
ANSWER_S: Final = 60.0
PATIENCE_S: Final = 2.0
# With these labelme prints something and ends.
PRINTING: Final = frozenset({"-h", "--help", "-V", "--version"})


def run(arguments: argparse.Namespace) -> int:
    """Check that the server accepts the key, and run labelme."""
    if not PRINTING & set(arguments.arguments):
        _check()
    client = _client(timeout_s=ANSWER_S, patience_s=PATIENCE_S)
    # While labelme runs, no line on the stack may name the key: labelme logs tracebacks with the values of variables.
    return labelme.start(client, arguments.arguments)


def _client(**options: float) -> Client:
    url = os.environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL
    return Client(url, api_key=os.environ.get(KEY_VARIABLE), **options)


def _check() -> None:
    """Wake the server up, and raise what a click would, before there is a window."""
    try:
        with _client(patience_s=WAKE_UP_S) as client:
            client.running_models()
            print(f"osamd: labelme's AI models are answered by {client.url}", file=sys.stderr)
    except OsamdError as error:
        raise type(error)(f"{error} (the server is {URL_VARIABLE}, its key {KEY_VARIABLE})") from None
