"""What all of the wire's objects and their numbers have in common."""

import math
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict

# Characters of a number that is a text.
LONGEST_NUMBER: Final = 64
LARGEST_NUMBER: Final = (2.0 - 2.0**-23) * 2.0**127


class WireModel(BaseModel):
    """Unknown fields are refused: a misspelt prompt must not become a default one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def number(value: Any) -> float:
    """A finite number, of float32's range; raises ``ValueError``."""
    # As osam reads them, numbers may be texts.
    is_text = isinstance(value, str) and len(value) <= LONGEST_NUMBER
    if isinstance(value, bool) or not (isinstance(value, int | float) or is_text):
        raise ValueError("expected a number")
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no end
        number = math.inf
    except ValueError:
        raise ValueError("expected a number") from None
    # Prompts are computed in float32.
    if not abs(number) <= LARGEST_NUMBER:
        raise ValueError("expected a finite number")
    return number


Number = Annotated[float, BeforeValidator(number)]
