"""How many images a call may encode: tokens of the caller's limit, taken before it and returned if not needed."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from osamd.cluster.outcomes import Grant, Outcome
from osamd.cluster.wire_errors import to_wire
from osamd.errors import RateLimitedError
from osamd.server.answers import Context


def take_grant(context: Context, count: int) -> Grant:
    """Take as many tokens as there are, up to a number."""
    for taken in range(count):
        try:
            context.encodes.take(context.caller.name)
        except RateLimitedError as error:
            return Grant(context.request_id, taken, to_wire(error))
    return Grant(context.request_id, count)


@contextlib.contextmanager
def given_back(context: Context, grant: Grant) -> Iterator[None]:
    """Return the tokens of a call that did not reach a Segmenter, or was lost with it."""
    try:
        yield
    except Exception:
        _give_back(context, grant.encodes)
        raise


def settle(context: Context, grant: Grant, outcome: Outcome[Any], begun: float) -> None:
    """Return the tokens that were not needed, and add a call's stages to the request's.

    Args:
        context: of the request.
        grant: of the call.
        outcome: of the call.
        begun: when it began, on the clock ``time.perf_counter``.
    """
    _give_back(context, grant.encodes - outcome.encodes)
    timings = context.timings
    timings.model = outcome.model or timings.model
    for stage, (seconds, after) in outcome.stages.items():
        timings.add(stage, seconds, begun=begun + after)
    # On the way, and waiting for a Segmenter.
    timings.add("queue", max(0.0, time.perf_counter() - begun - outcome.total_s), begun=begun)


def _give_back(context: Context, count: int) -> None:
    for _ in range(count):
        context.encodes.give_back(context.caller.name)
