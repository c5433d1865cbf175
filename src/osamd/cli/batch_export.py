"""``osamd batch export``: other formats of a finished run."""

import argparse
import sys

from osamd.cli.batch import FAILED, formats_of
from osamd.dataset.export import export
from osamd.dataset.urls import place_of
from osamd.plurals import counted


def run(arguments: argparse.Namespace) -> int:
    """Write the formats."""
    out = place_of(arguments.out)
    try:
        count, failed = export(out, formats_of(arguments.format))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"osamd: {where}{error.strerror or error}", file=sys.stderr)
        return FAILED
    print(f"osamd: {counted(count, 'photo')}, {failed:,} failed; results in {out}", file=sys.stderr)
    return 0
