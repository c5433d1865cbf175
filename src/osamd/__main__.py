"""``python -m osamd``: the same as the command ``osamd``."""

import sys

from osamd.cli.main import main

sys.exit(main())
