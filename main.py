"""The deployment's entry point: ``uvicorn main:app``, or ``python main.py``.

Reads a ``.env`` file next to this one; real environment variables take precedence.
"""

import sys
from pathlib import Path

from osamd.server.startup import faster_imports

with faster_imports():
    from osamd.errors import SettingsError
    from osamd.server.app import create_app
    from osamd.server.process import drain_on_signals, prepare_process, serve
    from osamd.settings import load_settings

    try:
        settings = load_settings(env_file=Path(__file__).with_name(".env"))
        prepare_process(settings)
        app = create_app(settings)
    except SettingsError as error:
        # The message names the variable; a traceback would bury it.
        print(f"osamd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

if __name__ == "__main__":
    serve(app, settings)
else:
    drain_on_signals(app)
