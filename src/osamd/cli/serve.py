"""``osamd serve``: the HTTP API."""

import argparse
import os

from osamd.errors import SettingsError
from osamd.server.startup import faster_imports


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped by a signal."""
    flags = {name: value for name, value in vars(arguments).items() if name not in {"command", "env_file"}}
    # Path.is_file raises if the folder is not accessible.
    if arguments.env_file is not None and not os.path.isfile(arguments.env_file):  # noqa: PTH113
        raise SettingsError(f"--env-file: {arguments.env_file} is not a file")
    with faster_imports():
        from osamd.settings import load_settings

        settings = load_settings(env_file=arguments.env_file, **flags)

        from osamd.server.app import create_app
        from osamd.server.process import prepare_process, serve

        prepare_process(settings)
        app = create_app(settings)
    serve(app, settings)
    return 0
