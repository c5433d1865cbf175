"""Errors arrive as they left."""

import pickle
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from osamd.cluster.wire_errors import WireError, from_wire, to_wire
from osamd.errors import InferenceError, OsamdError


def kinds(kind: type[OsamdError] = OsamdError) -> Iterator[type[OsamdError]]:
    """Every class of the tree in ``errors.py``."""
    if kind.__module__ == "osamd.errors":
        yield kind
    for narrower in kind.__subclasses__():
        yield from kinds(narrower)


def parts(error: OsamdError) -> tuple[object, ...]:
    """All that an answer is made of."""
    return type(error), str(error), error.public_message, error.field, error.retry_after_s, error.status, error.code


@given(
    kind=st.sampled_from([*kinds()]),
    message=st.text(),
    field=st.none() | st.text(max_size=500),
    retry_after_s=st.none() | st.floats(min_value=0, allow_nan=False),
)
def test_every_error_arrives_as_it_left(
    kind: type[OsamdError], message: str, field: str | None, retry_after_s: float | None
) -> None:
    """Class, message, field and the time to wait, after any number of hops."""
    error = kind(message, field=field, retry_after_s=retry_after_s)
    arrived = from_wire(pickle.loads(pickle.dumps(to_wire(error))))  # noqa: S301 - our own
    assert parts(error) == parts(arrived)
    assert parts(error) == parts(from_wire(to_wire(arrived)))


def test_an_error_of_a_newer_osamd_is_a_failure() -> None:
    """While a cluster is updated, Segmenters may be newer than edges."""
    arrived = from_wire(WireError("FluxError", "flux in /secret", None, 2.0))
    assert isinstance(arrived, InferenceError)
    assert "secret" not in arrived.public_message
