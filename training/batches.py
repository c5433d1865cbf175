"""Endless batches of scenes, made beside the training in other processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from training.library import Library
from training.scenes import Scene, SceneMaker
from training.stage import Target

# Sizes by area: square, wide, tall.
SIZES: Final = {
    256: ((256, 256), (224, 320), (288, 224)),
    320: ((320, 320), (256, 384), (384, 256), (288, 352)),
    384: ((384, 384), (320, 480), (448, 320)),
    448: ((448, 448), (384, 512), (512, 384)),
}


@dataclass(frozen=True)
class Phase:
    """Until which share of all steps which areas are drawn: small ones first, since a step costs what it has pixels."""

    until: float
    areas: tuple[int, ...]


PHASES: Final = (Phase(0.4, (256,)), Phase(0.75, (256, 320)), Phase(1.0, (320, 320, 384, 448)))
# What has learned to answer already starts with the sizes that it is asked at.
LARGE: Final = PHASES[-1:]


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """(B, H, W, 3) uint8 RGB images and (B * objects, H, W) uint8 masks, B such that H * W * B is about constant.

    Args:
        folder: what ``training.prepare`` filled.
        seed: together with the number of a step it decides all that is drawn.
        images: images a batch at 320 x 320.
        objects: targets an image.
        step: where training goes on.
        steps: how many there will be.
        workers: how many processes share the steps.
        phases: which areas are drawn when.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        images: int,
        objects: int,
        step: int,
        steps: int,
        workers: int,
        phases: tuple[Phase, ...] = PHASES,
    ) -> None:
        self.folder, self.seed, self.images, self.objects = folder, seed, images, objects
        self.step, self.steps, self.workers, self.phases = step, steps, workers, phases

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        cv2.setNumThreads(0)
        maker = SceneMaker(Library.load(self.folder), np.random.default_rng(self.seed))
        step = self.step + get_worker_info().id
        while True:
            # By step, so that neither stops nor the number of processes change what is drawn.
            rng = np.random.default_rng((self.seed, 0, step))
            maker.draw_from(rng)
            areas = next(
                phase.areas for phase in self.phases if step / self.steps < phase.until or phase is self.phases[-1]
            )
            area = int(rng.choice(areas))
            sizes = SIZES[area]
            rows, columns = sizes[int(rng.integers(len(sizes)))]
            count = max(2, round(self.images * 320 * 320 / (area * area)))
            scenes = [maker.make(rows, columns) for _ in range(count)]
            masks = [scene.mask(target) for scene in scenes for target in self._choose(scene, rng)]
            images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
            yield images, torch.from_numpy(np.stack(masks).astype(np.uint8))
            step += self.workers

    def _choose(self, scene: Scene, rng: np.random.Generator) -> list[Target]:
        """Different targets as long as there are some."""
        weights = np.array([target.weight for target in scene.targets])
        count = min(self.objects, len(weights))
        chosen = rng.choice(len(weights), count, replace=False, p=weights / weights.sum())
        return [scene.targets[chosen[index % count]] for index in range(self.objects)]
