import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from osamd.errors import PullError
from osamd.events import PullProgress
from osamd.library.catalog import Blob, Model
from osamd.server.answers import Answers
from osamd.server.routes.models import _lines

MODEL = Model("mine:latest", "sam", {"encoder": Blob("https://example.org/e", "ab" * 32)})


def lines_of(failure: Exception) -> list[dict[str, Any]]:
    """All lines of a pull that fails after a while."""

    async def pull(model: Model) -> AsyncIterator[PullProgress]:
        yield PullProgress(model.name, "encoder", "ab" * 32, 100, 50, "downloading")
        raise failure

    async def collect() -> list[str]:
        answers = cast("Answers", SimpleNamespace(pull=pull))
        return [line async for line in _lines(answers, MODEL)]

    return [json.loads(line) for line in asyncio.run(collect())]


@pytest.mark.parametrize(
    ("failure", "code"), [(PullError("https://hush"), "pull_failed"), (ImportError("hush"), "internal_error")]
)
def test_a_stream_that_fails_ends_with_an_error_line(failure: Exception, code: str) -> None:
    """Whatever goes wrong after the 200, a bug included, is the last line, in a sentence that tells nothing."""
    *_, last = lines = lines_of(failure)
    assert 3 == len(lines)
    assert code == last["code"]
    assert "hush" not in last["error"]
