"""Answers of several Segmenters, of which some may be late."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gathered:
    """What Segmenters answered.

    Attributes:
        results: by a label of each.
        silent: how many failed or did not answer in time.
    """

    results: Mapping[str, Any]
    silent: int = 0


async def gathered(calls: Iterable[Awaitable[tuple[str, Any]]], *, within_s: float) -> Gathered:
    """Wait for calls, and cancel those that are late.

    Args:
        calls: each results in a label and a result.
        within_s: seconds to wait.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        done = (await asyncio.wait(tasks, timeout=within_s))[0] if tasks else set()
    finally:
        for task in tasks:
            task.cancel()
    answered = [task.result() for task in tasks if task in done and not task.cancelled() and task.exception() is None]
    return Gathered(dict(answered), len(tasks) - len(answered))


def together(several: Iterable[Gathered]) -> Gathered:
    """All of them as one."""
    results: dict[str, Any] = {}
    silent = 0
    for one in several:
        results.update(one.results)
        silent += one.silent
    return Gathered(results, silent)
