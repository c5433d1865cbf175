"""Request bodies that name an image, and their translation into the engine's types."""

from typing import Any

from pydantic import Field, StrictBool, StrictStr, model_validator

from osamd.errors import InvalidRequestError
from osamd.pixels.everything import Everything
from osamd.setting_types import Duration
from osamd.settings import Include, Settings
from osamd.types import Prompt
from osamd.wire.base64_text import Base64Text
from osamd.wire.embedding_schema import EmbeddingSchema
from osamd.wire.fields import LONGEST_LIST, WireModel, fold
from osamd.wire.mask_fields import CANVAS_FACTOR, WHOLE_FORMATS, MaskFields
from osamd.wire.prompt_schema import PromptSchema, check_count

LONGEST_URL = 2048

# The seed document's names of osam's fields.
SPELLINGS = {"model_id": "model", "image_base64": "image"}


class ImageFields(WireModel):
    """The fields that name a model and an image, in every spelling."""

    model: StrictStr | None = Field(
        default=None,
        description="A model's name or alias, or `DETECTOR+SEGMENTER` to turn words into masks; the built-in one by"
        " default. Also accepted as `model_id`.",
    )
    image: Base64Text | None = Field(
        default=None, description="An encoded image in base64, or a data URI. Also accepted as `image_base64`."
    )
    image_id: StrictStr | None = Field(
        default=None, description="A handle from an earlier answer, instead of an image."
    )
    image_path: StrictStr | None = Field(
        default=None, description="A file on the server, if the operator allows it (`OSAMD_IMAGE_ROOT`)."
    )

    image_url: StrictStr | None = Field(
        default=None,
        max_length=LONGEST_URL,
        description="A URL from which the server fetches the image, if the operator allows it (`OSAMD_URL_HOSTS`).",
    )

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: Any) -> Any:
        return fold(values, SPELLINGS)


class EmbedBody(ImageFields):
    """Body of ``POST /api/embed``."""


class GenerateBody(ImageFields, MaskFields):
    """Body of ``POST /api/generate``: the fields of osam and of the seed document, and osamd's additions."""

    prompt: PromptSchema | None = Field(
        default=None,
        description="What to segment; by default the model's default prompt, such as a point in the centre.",
    )
    prompts: list[PromptSchema] | None = Field(
        fail_fast=True,
        default=None,
        min_length=1,
        max_length=LONGEST_LIST,
        description="Several prompts on one image; annotations carry `prompt_index`.",
    )
    multimask: StrictBool | None = Field(
        default=False, description="Up to three candidates per prompt, best first, if the model supports it."
    )
    include: list[Include] | None = Field(
        fail_fast=True,
        default=None,
        description="`image_embedding`: the embedding in the reply as osam writes it; `image_embedding_compact`: the"
        " same in base64, half precision.",
    )
    image_embedding: EmbeddingSchema | None = Field(
        default=None, description="An embedding from an earlier reply, instead of an image."
    )
    keep_alive: Duration = Field(
        default=None,
        description="How long the model stays loaded afterwards: `5m`, seconds, 0 to unload immediately, -1 forever."
        " Applies until another request changes it. For keys with the role `user` it is capped at the operator's"
        " default, and ignored for models that are preloaded or whose `keep_alive` an admin set.",
    )
    annotations: None = Field(default=None, description="Ignored; null for osam's clients.")

    def to_prompts(self, settings: Settings) -> tuple[Prompt, ...] | None:
        """The engine's prompts; None for the model's default, or for everything.

        Raises:
            InvalidPromptError: one of them is invalid, or there are too many.
            InvalidRequestError: both ``prompt`` and ``prompts`` are given.
        """
        if self.prompts is None:
            if self.prompt is None or self.prompt.wants_everything:
                return None
            return (self.prompt.to_prompt(settings, "prompt"),)
        if self.prompt is not None:
            raise InvalidRequestError("give either prompt or prompts", field="prompts")
        check_count(len(self.prompts), settings.max_prompts, "prompts")
        return tuple(prompt.to_prompt(settings, f"prompts[{index}]") for index, prompt in enumerate(self.prompts))

    def to_everything(self, settings: Settings, *, most_seconds: float) -> Everything | None:
        """The parameters of everything mode, or None if it is not requested.

        Args:
            settings: the server's limits.
            most_seconds: largest time limit.

        Raises:
            InvalidPromptError: a parameter is out of range, or the prompt contains something else, too.
            InvalidRequestError: another field does not go with it.
        """
        if self.prompt is None or not self.prompt.wants_everything:
            return None
        if self.prompts is not None:
            raise InvalidRequestError("give either prompt or prompts", field="prompts")
        if self.multimask:
            raise InvalidRequestError("everything already returns all candidates: remove multimask", field="multimask")
        if self.mask_format == "cutout":
            raise InvalidRequestError(
                "everything returns no cut-outs: request png, rle, polygon or none", field="mask_format"
            )
        is_whole = (self.mask_layout or settings.mask_layout) == "full" and self.mask_format in WHOLE_FORMATS
        return self.prompt.to_everything(
            most_seconds=most_seconds,
            max_canvas_pixels=CANVAS_FACTOR * settings.max_mask_pixels if is_whole else None,
        )
