"""``osamd batch`` interrupted at every single file operation, in every way."""

import subprocess
import sys
from pathlib import Path

import pytest
from data_sets import ALL_FORMATS
from serving import clean_environment

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.proof
@pytest.mark.parametrize("how", ["kill", "cut", "full"])
def test_every_single_interruption_ends_with_the_same_bytes(how: str, tmp_path: Path) -> None:
    """Takes a minute for each way."""
    subprocess.run(
        [sys.executable, str(TESTS / "kill_points.py"), str(tmp_path), how, ",".join(ALL_FORMATS), "1"],
        env=clean_environment({"PYTHONPATH": str(TESTS)}),
        check=True,
    )
