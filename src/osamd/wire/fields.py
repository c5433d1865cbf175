"""The base class of all wire objects, and their number type."""

import math
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict

# Characters of a number given as a string.
LONGEST_NUMBER: Final = 64
LARGEST_NUMBER: Final = (2.0 - 2.0**-23) * 2.0**127


class WireModel(BaseModel):
    """Unknown fields are refused: a misspelt prompt must not become a default one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


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


Number = Annotated[float, BeforeValidator(number)]
