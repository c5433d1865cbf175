"""What Label Studio keeps of a task, and sends with each request, as far as it is needed: which regions are negative.

After a reload, its page sends key points and strokes without ``is_positive``. Drafts and annotations still have it,
until they are saved again.
"""

from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import from_json

from osamd.errors import InvalidRequestError
from osamd.wire.skipping import values_under, without_values

KEPT: Final = ("annotations", "drafts")
# Coordinates and masks.
VALUE: Final = ("value",)
SIGN: Final = b'"is_positive"'
# Without its values, a region has 200 bytes.
MOST_BYTES: Final = 1_000_000


def negative_in(raw: bytes) -> frozenset[str]:
    """The ids of the negative regions in a body's drafts and annotations.

    Args:
        raw: the body in UTF-8. What is not in the expected form is ignored.
    """
    found: set[str] = set()
    try:
        for value in values_under(without_values(raw, VALUE), KEPT):
            if len(value) <= MOST_BYTES and SIGN in value:
                found |= set(_negatives(from_json(value)))
    except (InvalidRequestError, ValueError):
        # Nobody would understand an error about what is otherwise not read.
        pass
    return frozenset(found)


def _negatives(lists: Any) -> Iterator[str]:
    for entry in _objects(lists):
        for region in _objects(entry.get("result")):
            if region.get("is_positive") is False and isinstance(region.get("id"), str):
                yield region["id"]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
