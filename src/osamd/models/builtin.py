"""The built-in network: small enough for the wheel, no download, no GPU.

An EfficientNet-Lite2 with a feature pyramid encodes the image, up to what the decoder adds to what it makes of a
prompt. A small U-Net decodes clicks, a box and the previous mask into logits at a quarter of the working size: the
mask, three candidates for a single click, which is ambiguous, and a predicted IoU for each. It was trained to see its
own previous mask from the second click on. A request has none, so the earlier clicks are decoded again, one after the
other, unless their results are remembered. What is small is looked at in a window of the image, see ``second_look``.
For the weights and their training data see ``builtin_net/README.md``, for the training ``training/`` in the repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from osamd.library.families import capabilities_of
from osamd.models.answers import Answer, Answers
from osamd.models.base import Shape
from osamd.models.builtin_tensors import (
    AREAS,
    FEATURES,
    MULTIPLE,
    STRIDES,
    THRESHOLD,
    HalfArray,
    are_alike,
    feeds,
    grid_of,
    keep_parts,
    logits_of,
    prepared,
    probability,
    resampled,
    resize,
    steps,
)
from osamd.models.second_look import Look, SecondLook
from osamd.models.tensors import FOREGROUND, MOST_CANDIDATES, confidence
from osamd.pixels.geometry import to_fractions, working_size
from osamd.pixels.mask_pictures import MaskFrame
from osamd.pixels.windows import compressed, onto_image
from osamd.runtime.sessions import Placement, device_of, load_both
from osamd.types import ByteArray, Candidate, Embedding, FloatArray, MaskLogits, Prepared, Prompt

# Of predicted IoU, where masks of one click are averaged. From .05 to .2 the results are about the same.
TEMPERATURE: Final = 0.1
# For the clicks of one prompt: each window is another encode.
MOST_WINDOWS_A_PROMPT: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one pass of the decoder found.

    Attributes:
        logits: (4, h, w) float32: the mask, and three candidates for a single click.
        scores: (4,) float32, predicted IoU of each.
        look: the window that they show; None is the whole image.
        windows: how many windows were made for the prompt's clicks.
    """

    logits: FloatArray
    scores: FloatArray
    look: Look | None = None
    windows: int = 0

    @property
    def answer(self) -> Answer:
        """The mask as the next pass gets it."""
        return Answer(probability(self.logits[0]), None if self.look is None else self.look.window, self.windows)


class Builtin:
    """The adapter of the ``builtin`` family.

    Args:
        paths: ONNX files of the roles ``encoder`` and ``decoder``.
        placement: where they run.
    """

    capabilities = capabilities_of("builtin")

    def __init__(self, paths: Mapping[str, Path], placement: Placement) -> None:
        self._encoder, self._decoder = load_both(paths["encoder"], paths["decoder"], placement)
        self.device = device_of(self._encoder.providers)
        self._answers = Answers()
        self._second_look = SecondLook(self._encode_window)

    def default_prompt(self, *, height: int, width: int) -> Prompt:
        """One foreground click in the centre, like osam's SAM families."""
        return Prompt(
            points=np.array([[width // 2, height // 2]], np.float32), point_labels=np.array([FOREGROUND], np.int64)
        )

    def input_size(self, *, height: int, width: int) -> tuple[int, int]:
        """Twice the larger of the two working sizes, because masks depend on the resampling of the last step."""
        rows, columns = working_size(height, width, area=AREAS["large"], multiple=MULTIPLE)
        return 2 * rows, 2 * columns

    def feature_shapes(self, *, height: int, width: int) -> Mapping[str, Shape]:
        """Those of both working sizes; the graph itself would take any size, at a cost that grows with its square."""
        shapes: dict[str, Shape] = {}
        for scale, area in AREAS.items():
            rows, columns = working_size(height, width, area=area, multiple=MULTIPLE)
            for name, stride in STRIDES.items():
                channels = self._decoder.input_shapes[name][1]
                shapes[f"{scale}.{name}"] = (1, channels, rows // stride, columns // stride)
        return shapes

    def mask_frame(self, *, height: int, width: int) -> MaskFrame:
        """The decoder's grid at the larger working size, without padding."""
        rows, columns = grid_of("large", height=height, width=width)
        return MaskFrame(rows, columns, float(rows), float(columns))

    def prepare(self, image: ByteArray, *, size: tuple[int, int] | None = None) -> Prepared:
        """(1, 3, h, w) float32 at each of the two working sizes, ``small`` and ``large``, 3.6 MB together.

        The image is resized to about each area at its own aspect ratio, without padding. For the second look it is
        also kept at no more than ``input_size``, compressed.
        """
        height, width = size or image.shape[:2]
        rows, columns = self.input_size(height=height, width=width)
        if image.shape[0] > rows and image.shape[1] > columns:
            # Read a large photo once, not once per working size.
            image = resize(image, rows, columns)
        inputs = prepared(image, height=height, width=width)
        kept = resize(image, min(rows, image.shape[0]), min(columns, image.shape[1]))
        return replace(inputs, picture=compressed(kept))

    def encode(self, prepared: Prepared) -> Embedding:
        """Four feature maps at each working size prepared, for an image ``small.p4`` to ``large.e``, about 4 MB.

        The picture for the second look has some hundred kilobytes.
        """
        features: dict[str, FloatArray] = {}
        for scale, pixels in prepared.inputs.items():
            maps = self._encoder.run_to_keep({"x": pixels}, FEATURES)
            features |= {f"{scale}.{name}": values for name, values in zip(FEATURES, maps, strict=True)}
        return Embedding(height=prepared.height, width=prepared.width, features=features, picture=prepared.picture)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """One mask, or with ``multimask`` for a single foreground click up to three different ones, with predicted IoU.

        The mask given without ``multimask`` is among them. Only the parts of a mask that contain a foreground click are
        kept. Background clicks without a foreground click find nothing. The first prompt for something small also
        encodes its window.
        """
        look = self._second_look.look(embedding, prompt, mask_input)
        if look is None:
            return self._decode(embedding, prompt, mask_input=mask_input, multimask=multimask)
        found = self._decode(
            look.embedding, look.prompt, mask_input=look.mask_input, multimask=multimask, size=look.size
        )
        return _onto_image(found, look, embedding)

    def _decode(
        self,
        embedding: Embedding,
        prompt: Prompt,
        *,
        mask_input: MaskLogits | None,
        multimask: bool,
        size: str = "large",
    ) -> list[Candidate]:
        """Answer in the frame of the embedding; ``size`` is that at which a mask is refined."""
        clicked = prompt.points[prompt.point_labels == FOREGROUND]
        if mask_input is not None:
            found = self._run(embedding, prompt, size, probability(mask_input.values))
        elif multimask and len(prompt.points) == len(clicked) == 1 and not len(prompt.boxes):
            return self._several(embedding, prompt)
        else:
            found = self._found(embedding, prompt, self._before(embedding, prompt))
            self._answers.put(embedding, prompt, found.answer)
        places = _clicked_places(embedding, prompt) if found.look is None else _clicked_places(*found.look.asked)
        mask = keep_parts(found.logits[0], places)
        if len(prompt.points) and not len(clicked) and not len(prompt.boxes) and mask_input is None:
            # It was not trained on prompts of background clicks only.
            mask = -np.abs(found.logits[0])
        candidates = [_candidate(mask, float(found.scores[0]))]
        return candidates if found.look is None else _onto_image(candidates, found.look, embedding)

    def _several(self, embedding: Embedding, prompt: Prompt) -> list[Candidate]:
        """What a single foreground click may mean, the best first: its answer, and up to two other masks."""
        (answer,) = self._decode(embedding, prompt, mask_input=None, multimask=False)
        if answer.logits is None:
            raise RuntimeError("the built-in network answers with masks")
        # Candidates were trained without a previous mask as input.
        found = self._run(embedding, prompt, "large", None)
        places = _clicked_places(embedding, prompt)
        candidates, masks = [answer], [answer.logits.values]
        for index in np.argsort(-found.scores[1:], kind="stable") + 1:
            mask = keep_parts(found.logits[index], places)
            if len(masks) < MOST_CANDIDATES and (mask > 0).any() and not any(are_alike(mask, other) for other in masks):
                masks.append(mask)
                candidates.append(_candidate(mask, float(found.scores[index])))
        return sorted(candidates, key=lambda item: -(item.score or 0.0))

    def propose(self, embedding: Embedding, prompt: Prompt) -> list[Candidate]:
        """All four masks at the small working size, which takes half the time and leaves more for other clicks.

        They come on the grid of the large one, so that a search can compare them with what ``decode`` makes of them.
        """
        found = self._run(embedding, prompt, "small", None)
        places = to_fractions(prompt.points, height=embedding.height, width=embedding.width)
        rows, columns = embedding.features["large.p4"].shape[2:]
        return [
            Candidate(
                logits=MaskLogits(
                    resampled(keep_parts(found.logits[index], places), rows, columns),
                    valid_height=rows,
                    valid_width=columns,
                ),
                score=confidence(found.scores[index]),
            )
            for index in np.argsort(-found.scores, kind="stable").tolist()
        ]

    def _encode_window(self, pixels: ByteArray, sizes: Sequence[str]) -> Embedding:
        height, width = pixels.shape[:2]
        return self.encode(prepared(pixels, height=height, width=width, sizes=sizes))

    def _before(self, embedding: Embedding, prompt: Prompt) -> Answer | None:
        """The answer before the last click; None for the first click or the box.

        It does not depend on earlier requests, which are only cached.
        """
        earlier = steps(prompt)[:-1]
        answer = None
        unanswered = earlier
        for index in range(len(earlier), 0, -1):
            answer = self._answers.get(embedding, earlier[index - 1])
            if answer is not None:
                unanswered = earlier[index:]
                break
        for step in unanswered:
            answer = self._found(embedding, step, answer).answer
            self._answers.put(embedding, step, answer)
        return answer

    def _found(self, embedding: Embedding, prompt: Prompt, before: Answer | None) -> Found:
        """Answer a prompt, given the answer to all of it but the last click.

        As soon as a mask of the whole image is small, clicks are answered in the window around it. They stay there
        until one asks for more than was found: that one is answered on the whole image first.
        """
        windows = 0 if before is None else before.windows
        if before is not None and before.window is not None and not before.is_extended_by(prompt):
            look = self._second_look.again(embedding, prompt, before.window)
            if look is not None:
                return replace(self._run(*look.asked, look.size, before.mask), look=look, windows=windows)
        if before is None:
            previous = self._first(embedding, prompt)
            closer = self._closer(embedding, prompt, previous, windows)
            if closer is not None:
                return closer
        else:
            previous = _over_image(before, embedding)
        found = replace(self._run(embedding, prompt, "large", previous), windows=windows)
        return self._closer(embedding, prompt, probability(found.logits[0]), windows) or found

    def _closer(self, embedding: Embedding, prompt: Prompt, mask: HalfArray, windows: int) -> Found | None:
        """Answer clicks in the window around the mask that they have on the whole image; None if it is not small."""
        places = _clicked_places(embedding, prompt)
        if embedding.picture is None or len(prompt.boxes) or not len(places) or windows == MOST_WINDOWS_A_PROMPT:
            return None
        kept = keep_parts(mask.astype(np.float32) - THRESHOLD, places) + THRESHOLD
        look = self._second_look.around(embedding, prompt, kept > THRESHOLD)
        if look is None:
            return None
        return replace(self._run(*look.asked, look.size, look.mask_before(kept)), look=look, windows=windows + 1)

    def _first(self, embedding: Embedding, prompt: Prompt) -> HalfArray:
        """The answer at the small working size, as probabilities.

        A single click may mean several things, so its answer is the mean of all four masks, weighted by a softmax of
        their scores.
        """
        found = self._run(embedding, prompt, "small", None)
        if len(prompt.boxes) or prompt.point_labels.tolist() != [FOREGROUND]:
            return probability(found.logits[0])
        weights = np.exp((found.scores - found.scores.max()) / TEMPERATURE)
        return np.tensordot(weights / weights.sum(), probability(found.logits), 1).astype(np.float16)

    def _run(self, embedding: Embedding, prompt: Prompt, size: str, previous: FloatArray | HalfArray | None) -> Found:
        """One pass of the decoder."""
        logits, scores = self._decoder.run(feeds(embedding, prompt, size, previous), ["logits", "iou"])
        return Found(logits[0], scores[0])


def _candidate(mask: FloatArray, score: float) -> Candidate:
    """A mask, (h, w) logits over all of what was encoded; as a copy, since a view would keep all masks of its pass."""
    rows, columns = mask.shape
    logits = MaskLogits(mask.copy(), valid_height=float(rows), valid_width=float(columns))
    return Candidate(logits=logits, score=confidence(score))


def _clicked_places(embedding: Embedding, prompt: Prompt) -> FloatArray:
    """The foreground clicks, (N, 2) float32, as fractions of width and height."""
    clicked = prompt.points[prompt.point_labels == FOREGROUND]
    return to_fractions(clicked, height=embedding.height, width=embedding.width)


def _over_image(before: Answer, embedding: Embedding) -> HalfArray:
    """An earlier mask as the previous one on the whole image."""
    if before.window is None or embedding.picture is None:
        return before.mask
    rows, columns = embedding.features["large.p4"].shape[2:]
    coarse = onto_image(logits_of(before.mask), before.window, rows=rows, columns=columns, picture=embedding.picture)
    return probability(coarse)


def _onto_image(found: Sequence[Candidate], look: Look, embedding: Embedding) -> list[Candidate]:
    """Answers in a window as ones on the whole image."""
    rows, columns = embedding.features["large.p4"].shape[2:]
    return [look.onto_image(candidate, rows=rows, columns=columns) for candidate in found]
