"""Common base of the SAM families: an encoder whose outputs are the decoder's image inputs, and clicks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from osamd.models.contract import Input, Shape, check_inputs, check_outputs, passed_on
from osamd.models.tensors import middle_click
from osamd.pixels.mask_pictures import MaskFrame
from osamd.runtime.sessions import Placement, device_of, load_both
from osamd.types import Embedding, Prepared, Prompt

SCORES, LOW_RES_MASKS = 1, 2
ANY_MASKS: Final[Mapping[int, Shape]] = {LOW_RES_MASKS: (1, "M", "rows", "columns"), SCORES: (1, "M")}


class TwoGraphs:
    """The loaded encoder and decoder of a family.

    Args:
        paths: ONNX files of the roles ``encoder`` and ``decoder``.
        placement: where they run.

    Attributes:
        image: the encoder's inputs.
        features: the decoder's names for the encoder's outputs, in the encoder's order.
        prompt: all of the decoder's inputs.
        answers: shapes of the decoder's outputs by position, where exporters agree on them.

    Raises:
        ModelLoadError: a file failed to load, or has other inputs or outputs than the family's graphs.
    """

    image: ClassVar[Mapping[str, Input]]
    features: ClassVar[Sequence[str]]
    prompt: ClassVar[Mapping[str, Input]]
    answers: ClassVar[Mapping[int, Shape]] = ANY_MASKS

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._encoder, self._decoder = load_both(paths["encoder"], paths["decoder"], placement)
        check_inputs(self._encoder, self.image)
        check_inputs(self._decoder, self.prompt)
        self._features = self._encoder.outputs_at(*range(len(self.features)))
        self._answers = self._decoder.outputs_at(LOW_RES_MASKS, SCORES)
        self.device = device_of(self._encoder.providers)
        self._shapes = passed_on(self._encoder, self._features, self._decoder, self.features)
        check_outputs(self._decoder, {self._decoder.outputs[place]: shape for place, shape in self.answers.items()})

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """One foreground click in the centre, as in osam."""
        return middle_click(height=height, width=width)

    def feature_shapes(self, *, height: int, width: int) -> Mapping[str, Shape]:
        """The same for every image: it is padded to a square."""
        del height, width
        return self._shapes

    def mask_frame(self, *, height: int, width: int) -> MaskFrame | None:
        """None: it takes no masks."""
        del height, width
        return None

    def encode(self, prepared: Prepared) -> Embedding:
        """The decoder's image inputs: one (1, 256, 64, 64) feature map of 4 MB, or SAM 2's three of 17 MB."""
        maps = self._encoder.run_to_keep(prepared.inputs, self._features)
        features = dict(zip(self.features, maps, strict=True))
        return Embedding(height=prepared.height, width=prepared.width, features=features)
