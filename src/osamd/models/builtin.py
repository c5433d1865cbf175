"""The built-in network: small enough for the wheel, no download, no GPU.

An EfficientNet-Lite2 with a feature pyramid encodes the image, up to what the decoder adds to what it makes of a
prompt. A small U-Net decodes clicks, a box and the previous mask into logits at a quarter of the working size: the
mask, three candidates for a single click, which is ambiguous, and a predicted IoU for each. It was trained to see its
own previous mask from the second click on. A request has none, so the earlier clicks are decoded again, one after the
other, unless their results are remembered. Around a small box it looks at a window of the image, see ``second_look``.
For the weights and their training data see ``builtin_net/README.md``, for the training ``training/`` in the repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import numpy.typing as npt

from osamd.library.families import capabilities_of
from osamd.models.base import Shape
from osamd.models.second_look import SecondLook
from osamd.models.tensors import FOREGROUND, confidence, ranked
from osamd.pixels.geometry import to_fractions, working_size
from osamd.pixels.mask_pictures import MaskFrame
from osamd.pixels.windows import compressed
from osamd.runtime.sessions import Placement, device_of, load_both
from osamd.types import ByteArray, Candidate, Embedding, FloatArray, MaskLogits, Prepared, Prompt

# Working areas in pixels: the size the network was trained at, and a larger one that improves later clicks.
AREAS: Final = {"small": 320 * 320, "large": 448 * 448}
MULTIPLE: Final = 32
# Working pixels per low-resolution pixel.
STRIDE: Final = 4
MEAN: Final = 127.0
SCALE: Final = 128.0
# Working pixels per cell of each feature map.
STRIDES: Final = {"p4": 4, "p8": 8, "p16": 16, "e": 8}
FEATURES: Final = tuple(STRIDES)
PADDING_LABEL: Final = -1.0
MOST_STEPS: Final = 16
MOST_REMEMBERED: Final = 4
# Of predicted IoU, where masks of one click are averaged. From .05 to .2 the results are about the same.
TEMPERATURE: Final = 0.1
# Masks with a higher IoU than this look the same to a person who has to choose.
SAME: Final = 0.9

HalfArray = npt.NDArray[np.float16]
Key = tuple[bytes, bytes, bytes]


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
        # The last answers for each embedding, latest first, for as long as the embedding exists; 25 KB each.
        self._answers: WeakKeyDictionary[Embedding, tuple[tuple[Key, HalfArray], ...]] = WeakKeyDictionary()
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
        rows, columns = working_size(height, width, area=AREAS["large"], multiple=MULTIPLE)
        rows, columns = rows // STRIDE, columns // STRIDE
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
            image = _resize(image, rows, columns)
        prepared = _prepared(image, height=height, width=width)
        kept = _resize(image, min(rows, image.shape[0]), min(columns, image.shape[1]))
        return replace(prepared, picture=compressed(kept))

    def encode(self, prepared: Prepared) -> Embedding:
        """Four feature maps at each of the two working sizes, ``small.p4`` to ``large.e``, about 4 MB.

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

        Only the parts of a mask that contain a foreground click are kept. Background clicks without
        a foreground click find nothing. The first prompt around a small box also encodes its window.
        """
        look = self._second_look.look(embedding, prompt, mask_input)
        if look is None:
            return self._decode(embedding, prompt, mask_input=mask_input, multimask=multimask)
        found = self._decode(look.embedding, look.prompt, mask_input=look.mask_input, multimask=multimask)
        rows, columns = embedding.features["large.p4"].shape[2:]
        return [look.onto_image(candidate, rows=rows, columns=columns) for candidate in found]

    def _decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        clicked = prompt.points[prompt.point_labels == FOREGROUND]
        is_lone = len(prompt.points) == len(clicked) == 1 and not len(prompt.boxes)
        if multimask and is_lone and mask_input is None:
            # Candidates were trained without a previous mask as input.
            logits, scores = self._run(embedding, "large", prompt, None)
            chosen: Sequence[int] = range(len(scores))
        else:
            previous = self._before(embedding, prompt) if mask_input is None else _probability(mask_input.values)
            logits, scores = self._run(embedding, "large", prompt, previous)
            if mask_input is None:
                self._remember(embedding, prompt, _probability(logits[0]))
            chosen = [0]
        places = to_fractions(clicked, height=embedding.height, width=embedding.width)
        masks = {index: _keep_parts(logits[index], places) if len(places) else logits[index] for index in chosen}
        if len(masks) > 1:
            chosen = _different(masks, scores)
        if len(prompt.points) and not len(clicked) and not len(prompt.boxes) and mask_input is None:
            # It was not trained on prompts of background clicks only.
            masks = {0: -np.abs(logits[0])}
        rows, columns = logits.shape[1:]
        return ranked(
            np.stack([masks[index] for index in chosen]),
            scores[list(chosen)],
            valid_height=float(rows),
            valid_width=float(columns),
            multimask=multimask,
        )

    def propose(self, embedding: Embedding, prompt: Prompt) -> list[Candidate]:
        """All four masks at the small working size, which takes half the time and leaves more for other clicks.

        They come on the grid of the large one, so that a search can compare them with what ``decode`` makes of them.
        """
        logits, scores = self._run(embedding, "small", prompt, None)
        places = to_fractions(prompt.points, height=embedding.height, width=embedding.width)
        rows, columns = embedding.features["large.p4"].shape[2:]
        return [
            Candidate(
                logits=MaskLogits(
                    _resampled(_keep_parts(logits[index], places), rows, columns),
                    valid_height=rows,
                    valid_width=columns,
                ),
                score=confidence(scores[index]),
            )
            for index in np.argsort(-scores, kind="stable").tolist()
        ]

    def _encode_window(self, pixels: ByteArray) -> Embedding:
        height, width = pixels.shape[:2]
        return self.encode(_prepared(pixels, height=height, width=width))

    def _before(self, embedding: Embedding, prompt: Prompt) -> HalfArray:
        """The answer before the last click; for the first click or the box, the answer at the small working size.

        It does not depend on earlier requests, which are only cached.
        """
        *earlier, _ = steps = _steps(prompt)
        for index in range(len(earlier), 0, -1):
            known = self._remembered(embedding, steps[index - 1])
            if known is not None:
                answer, unanswered = known, steps[index:-1]
                break
        else:
            answer, unanswered = self._first(embedding, steps[0]), earlier
        for step in unanswered:
            answer = self._mask(embedding, "large", step, answer)
            self._remember(embedding, step, answer)
        return answer

    def _first(self, embedding: Embedding, prompt: Prompt) -> HalfArray:
        """The answer at the small working size, as probabilities.

        A single click may mean several things, so its answer is the mean of all four masks, weighted by a softmax of
        their scores.
        """
        if len(prompt.boxes) or prompt.point_labels.tolist() != [FOREGROUND]:
            return self._mask(embedding, "small", prompt, None)
        logits, scores = self._run(embedding, "small", prompt, None)
        weights = np.exp((scores - scores.max()) / TEMPERATURE)
        return np.tensordot(weights / weights.sum(), _probability(logits), 1).astype(np.float16)

    def _remembered(self, embedding: Embedding, prompt: Prompt) -> HalfArray | None:
        key = _key(prompt)
        return next((answer for known, answer in self._answers.get(embedding, ()) if known == key), None)

    def _remember(self, embedding: Embedding, prompt: Prompt, answer: HalfArray) -> None:
        """Remember an answer. Threads may overwrite each other's, which only costs time."""
        key = _key(prompt)
        others = [item for item in self._answers.get(embedding, ()) if item[0] != key]
        self._answers[embedding] = ((key, answer), *others[: MOST_REMEMBERED - 1])

    def _mask(self, embedding: Embedding, scale: str, prompt: Prompt, previous: HalfArray | None) -> HalfArray:
        """One pass for the mask alone, as probabilities: the input of another pass."""
        (logits,) = self._decoder.run(_feeds(embedding, scale, prompt, previous), ["logits"])
        return _probability(logits[0, 0])

    def _run(
        self, embedding: Embedding, scale: str, prompt: Prompt, previous: FloatArray | HalfArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """One pass of the decoder: (4, h, w) float32 logits over the whole image, and (4,) predicted IoU."""
        logits, scores = self._decoder.run(_feeds(embedding, scale, prompt, previous), ["logits", "iou"])
        return logits[0], scores[0]


def _feeds(
    embedding: Embedding, scale: str, prompt: Prompt, previous: FloatArray | HalfArray | None
) -> dict[str, FloatArray]:
    """The decoder's inputs for one prompt. The graph takes several at once, which is no faster on a CPU."""
    features = {name: embedding.features[f"{scale}.{name}"] for name in FEATURES}
    rows, columns = features["p4"].shape[2:]
    maps = np.zeros((1, 2, rows, columns), np.float32)
    if len(prompt.boxes):
        _fill_box(maps[0, 0], prompt.boxes[0], height=embedding.height, width=embedding.width)
    if previous is not None:
        maps[0, 1] = _resampled(previous.astype(np.float32), rows, columns)
    return {**features, "pts": _points_input(prompt, height=embedding.height, width=embedding.width), "maps": maps}


def _resampled(values: FloatArray, rows: int, columns: int) -> FloatArray:
    """(h, w) float32 on a grid of (rows, columns)."""
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def _prepared(image: ByteArray, *, height: int, width: int) -> Prepared:
    """The encoder's inputs for an image of this size, of which ``image`` may be a reduced one."""
    inputs: dict[str, FloatArray] = {}
    for scale, area in AREAS.items():
        small = _resize(image, *working_size(height, width, area=area, multiple=MULTIPLE))
        pixels = ((small.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]
        inputs[scale] = np.ascontiguousarray(pixels)
    return Prepared(height=height, width=width, inputs=inputs)


def _resize(image: ByteArray, rows: int, columns: int) -> ByteArray:
    is_shrinking = columns < image.shape[1]
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA if is_shrinking else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _steps(prompt: Prompt) -> list[Prompt]:
    """The prompt as it grew, click by click, itself included: from the box, else from the first foreground click.

    At most ``MOST_STEPS``; beyond that, the last clicks are added at once.
    """
    count = len(prompt.points)
    if len(prompt.boxes):
        first = 0
    else:
        foreground = np.flatnonzero(prompt.point_labels == FOREGROUND)
        first = int(foreground[0]) + 1 if len(foreground) else count
    sizes = [*range(first, min(count, first + MOST_STEPS - 1)), count]
    return [replace(prompt, points=prompt.points[:size], point_labels=prompt.point_labels[:size]) for size in sizes]


def _key(prompt: Prompt) -> Key:
    return prompt.points.tobytes(), prompt.point_labels.tobytes(), prompt.boxes.tobytes()


def _different(masks: Mapping[int, FloatArray], scores: FloatArray) -> list[int]:
    """Drop masks that are nearly the same as one with a better score."""
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if all(_overlap(masks[index], masks[other]) < SAME for other in chosen):
            chosen.append(index)
    return chosen


def _overlap(one: FloatArray, other: FloatArray) -> float:
    """IoU of two masks given as logits."""
    union = int(((one > 0) | (other > 0)).sum())
    return int(((one > 0) & (other > 0)).sum()) / union if union else 1.0


def _keep_parts(values: FloatArray, places: FloatArray) -> FloatArray:
    """Push 8-connected parts of the mask without a click below the threshold.

    Args:
        values: (h, w) float32 logits.
        places: (P, 2) float32, the clicks as fractions of width and height.

    Returns:
        (h, w) float32; unchanged if no click is on the mask.
    """
    rows, columns = values.shape
    _, parts = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)
    x = np.clip((places[:, 0] * columns).astype(np.int64), 0, columns - 1)
    y = np.clip((places[:, 1] * rows).astype(np.int64), 0, rows - 1)
    hit = parts[y, x]
    hit = hit[hit > 0]
    return np.where(np.isin(parts, [0, *hit]), values, -np.abs(values)) if len(hit) else values


def _points_input(prompt: Prompt, *, height: int, width: int) -> FloatArray:
    """(1, K, 3) float32: x and y as fractions of the image, label; one padding point if there are no clicks."""
    if not len(prompt.points):
        return np.array([[[0.0, 0.0, PADDING_LABEL]]], np.float32)
    places = to_fractions(prompt.points, height=height, width=width)
    return np.concatenate([places, prompt.point_labels[:, None].astype(np.float32)], axis=1)[None]


def _fill_box(box_map: FloatArray, box: FloatArray, *, height: int, width: int) -> None:
    """Set the cells of a (rows, columns) map that the box covers to 1, at least one cell."""
    rows, columns = box_map.shape
    x1, y1, x2, y2 = box.tolist()
    top = min(rows - 1, max(0, round(y1 * rows / height)))
    left = min(columns - 1, max(0, round(x1 * columns / width)))
    bottom = max(top + 1, round((y2 + 1) * rows / height))
    right = max(left + 1, round((x2 + 1) * columns / width))
    box_map[top:bottom, left:right] = 1.0


def _probability(logits: FloatArray) -> HalfArray:
    """Convert to half precision, in which answers are remembered."""
    return (1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))).astype(np.float16)
