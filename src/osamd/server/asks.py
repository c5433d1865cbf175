"""What a request asks for, and how its reply is written: the two ends of every protocol, without its transport.

An ``Ask`` and the functions that write replies can be pickled, so that a reply can be written where its masks are: in
this process or in another one (``osamd.server.answers``).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from osamd.engine.everything import Update
from osamd.image_sources import ImageSource
from osamd.keep_alive import KeepAlive
from osamd.pixels.everything import Everything
from osamd.segment_requests import SegmentResult
from osamd.settings import Settings
from osamd.types import Prompt
from osamd.wire.json_pieces import Room

How = TypeVar("How")

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, eq=False)
class Ask(Generic[How]):
    """What a body asks for; the caller is not part of it.

    Attributes:
        image: the image; None if it is to be fetched from ``image_url``.
        how: what the protocol's ``write`` needs to know.
        image_url: where to fetch the image.
        model: a name or alias; None for the handle's model, or the built-in one.
        prompts: what to segment; None for the model's default.
        multimask: whether to return up to three candidates for each prompt.
        keep_alive: how long the model stays loaded afterwards; a user's longer values are capped.
        with_embedding: whether the result includes its embedding.
        needs_masks: whether a model that only finds boxes is refused.
        with_pixels: whether the result includes the image at full size.
        refinable: whether masks get a ``mask_id`` if the model can refine them; otherwise they keep their logits.
        clip: whether prompts that reach slightly beyond the image are clipped, for tools that do not do so themselves.
        everything: parameters of everything mode, instead of prompts; or None.
        fields: what the protocol calls ``model``, ``image_url`` and other fields that errors name, where it differs.
    """

    image: ImageSource | None
    how: How
    image_url: str | None = None
    model: str | None = None
    prompts: tuple[Prompt, ...] | None = None
    multimask: bool = False
    keep_alive: KeepAlive = None
    with_embedding: bool = False
    needs_masks: bool = False
    with_pixels: bool = False
    refinable: bool = True
    clip: bool = False
    everything: Everything | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """The body of a reply in pieces, and headers."""

    pieces: Sequence[bytes]
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


# Both take a callback for the reply's size and yield where other jobs may run. Module-level functions, or ``partial``
# of one: they are pickled by reference.
Write = Callable[[SegmentResult, Ask[How], Settings, Room], Generator[None, None, Content]]
WriteLines = Callable[[Update, Ask[How], Settings, Room], Generator[None, None, Sequence[bytes]]]
