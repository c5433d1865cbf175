"""In which order parallel processes take the test files, so that they finish together."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# Tests in these folders share a fixture that is torn down where other tests follow, so they go to one process.
TOGETHER = ("tests/browser",)
# What takes a process longest, in this order; the others follow by their number of tests.
LONGEST = (
    *TOGETHER,
    *("tests/attacks/test_promise.py", "tests/server/test_parity.py", "tests/cli/test_cli.py"),
    *("tests/server/test_embedding_exchange.py", "tests/e2e", "tests/server/guard/test_auth.py"),
    *("tests/models/test_builtin.py", "tests/pixels/test_decode_memory.py", "tests/server/test_first_use.py"),
    *("tests/server/guard/test_admission.py", "tests/cli/test_bench.py", "tests/server/guard/test_slow_clients.py"),
    # Few tests, but long ones: last of all, they would keep one process while the others have nothing left.
    *("tests/runtime/test_out_of_memory.py", "tests/benchmarks/test_run.py", "tests/training/test_scenes.py"),
    *("tests/test_batch.py", "tests/test_package.py", "tests/test_suite.py", "tests/server/test_hostile_images.py"),
    *("tests/server/telemetry/test_traces.py", "tests/server/test_mounted.py", "tests/integrations", "tests/dataset"),
)


def unit_of(nodeid: str) -> str:
    """What goes to one process as a whole: a file or a folder."""
    file = nodeid.split("::", 1)[0]
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def longest_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The tests in the order in which processes shall take them."""
    items = list(items)
    counts = Counter(unit_of(item.nodeid) for item in items)

    def place(item: pytest.Item) -> tuple[int, int, str]:
        unit = unit_of(item.nodeid)
        rank = next((rank for rank, name in enumerate(LONGEST) if unit.startswith(name)), len(LONGEST))
        return rank, -counts[unit], unit

    return sorted(items, key=place)


class LongestFirst(LoadFileScheduling):  # type: ignore[misc]
    """Hands out units in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
