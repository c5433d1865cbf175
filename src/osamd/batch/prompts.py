"""Prompts as ``Segmenter`` takes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from osamd.errors import InvalidPromptError
from osamd.pixels.everything import Everything
from osamd.settings import Settings
from osamd.types import Prompt
from osamd.wire.prompt_schema import PromptSchema
from osamd.wire.validation_errors import invalid_request

AnyPrompt = Prompt | Mapping[str, Any]
# The prompts for one image: one, several, everything, or None for the model's default.
Prompts = AnyPrompt | Sequence[AnyPrompt] | Everything | None

# The caller waits for all results, so everything mode may take any time.
MOST_SECONDS: Final = 1e9


def everything_of(asked: Prompts) -> Everything | None:
    """The parameters of everything mode, or None if something else is asked.

    Raises:
        InvalidPromptError: a parameter is invalid.
    """
    if isinstance(asked, Everything):
        return asked
    if not isinstance(asked, Mapping):
        return None
    schema = _parsed(asked, "prompt")
    if not schema.wants_everything:
        return None
    return schema.to_everything(most_seconds=MOST_SECONDS, max_canvas_pixels=None)


def prompts_of(asked: Any, settings: Settings) -> tuple[Prompt, ...] | None:
    """The prompts for one image, or None for the model's default.

    Raises:
        InvalidPromptError: one of them is invalid, or there are too many points, boxes or texts.
    """
    if asked is None or isinstance(asked, Everything):
        return None
    if isinstance(asked, Prompt | Mapping):
        return (_prompt(asked, "prompt", settings),)
    if not isinstance(asked, Sequence) or isinstance(asked, str | bytes):
        raise _not_a_prompt(asked, "prompt")
    return tuple(_prompt(prompt, f"prompts[{index}]", settings) for index, prompt in enumerate(asked))


def _prompt(prompt: Any, field: str, settings: Settings) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, Mapping):
        raise _not_a_prompt(prompt, field)
    return _parsed(prompt, field).to_prompt(settings, field)


def _parsed(prompt: Mapping[str, Any], field: str) -> PromptSchema:
    try:
        return PromptSchema.model_validate(dict(prompt))
    except ValidationError as error:
        found = invalid_request(error.errors(include_url=False, include_input=False, include_context=False))
        raise InvalidPromptError(str(found), field=f"{field}.{found.field}" if found.field else field) from None


def _not_a_prompt(given: object, field: str) -> InvalidPromptError:
    return InvalidPromptError(
        f"expected a mapping, an osamd.types.Prompt or an Everything; got {type(given).__name__}", field=field
    )
