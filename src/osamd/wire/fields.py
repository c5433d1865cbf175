"""The base classes of all wire objects, their number types, and limits that several share.

Both are built when they are first used: a server needs few of them for its first mask.
"""

import math
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# Hard limit on the parser's lists, whatever the configuration.
LONGEST_LIST: Final = 4096
# JPEG's limit.
LONGEST_SIDE: Final = 65535
# Limit on fields of one object, in all spellings.
MOST_FIELDS: Final = 64
# Characters of a number given as a string.
LONGEST_NUMBER: Final = 64
LARGEST_NUMBER: Final = (2.0 - 2.0**-23) * 2.0**127


class WireModel(BaseModel):
    """Unknown fields are refused: a misspelt prompt must not become a default one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, defer_build=True)


class ReplyModel(BaseModel):
    """A reply, or a part of one."""

    model_config = ConfigDict(defer_build=True)


def number(value: Any) -> float:
    """A finite number in float32's range; raises ``ValueError``."""
    # As in osam, numbers may be strings.
    is_text = isinstance(value, str) and len(value) <= LONGEST_NUMBER
    if isinstance(value, bool) or not (isinstance(value, int | float) or is_text):
        raise ValueError("expected a number")
    try:
        number = float(value)
    except OverflowError:  # JSON integers are unbounded
        number = math.inf
    except ValueError:
        raise ValueError("expected a number") from None
    # Prompts are computed in float32.
    if not abs(number) <= LARGEST_NUMBER:
        raise ValueError("expected a finite number")
    return number


def whole_number(value: Any) -> int:
    """A whole number, also written as 7.0 or as a string; raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        found = number(value)
    except ValueError:
        found = math.nan
    if not found.is_integer():
        raise ValueError("expected a whole number")
    return int(found)


# pydantic's own float and int take true for 1. Limits stand before these, or JSON Schema would not show them.
AS_NUMBER: Final = BeforeValidator(number)
AS_WHOLE_NUMBER: Final = BeforeValidator(whole_number)
Number = Annotated[float, AS_NUMBER]
NotNegative = Annotated[float, Field(ge=0), AS_NUMBER]
Fraction = Annotated[float, Field(ge=0, le=1), AS_NUMBER]


def fold(values: Any, spellings: dict[str, str]) -> Any:
    """Rename the second spelling of a field to the first; if both are given, they must be equal."""
    if not isinstance(values, dict):
        return values
    if len(values) > MOST_FIELDS:
        # Each unknown one would become an error, which takes a hundred times its bytes.
        raise ValueError(f"expected at most {MOST_FIELDS} fields, got {len(values):,}")
    folded = dict(values)
    for other, name in spellings.items():
        if other in folded:
            value = folded.pop(other)
            if folded.get(name) not in (None, value):
                raise ValueError(f"{name} and {other} are the same field, but have different values")
            folded[name] = value
    return folded
