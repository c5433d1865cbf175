"""``python -m osamd``: the same as the command ``osamd``."""

import sys

from osamd.cli import main

sys.exit(main())
