"""The training loop: ``python -m training.train FOLDER --steps N``.

Every step draws scenes, asks about several objects of each, and corrects the answers with clicks for up to four rounds;
the first and the last round teach. Weights are averaged over the last steps (Polyak). The learning rate is constant and
falls to nothing over the last steps. The state before that fall is kept, so that a longer training goes on from there
(``--resume``), as in Hu et al., "MiniCPM", 2024. This first stage leaves the backbone as it came. The second, tuning
(``--tune GRAPHS``), goes on from exported weights at a lower rate, and the last stages of the backbone learn, too, at a
tenth of it; its state is in ``FOLDER/tuning``.
"""

import argparse
import copy
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm

from osamd.models.builtin_tensors import MEAN, SCALE
from training.batches import LARGE, PHASES, Batches
from training.curves import draw
from training.losses import candidates_loss, hard_iou, mask_loss
from training.network import Decoder, Encoder
from training.prompts import Click, correct, first_prompt, packed
from training.restored import digest, keep_norms, restore
from training.sources import backbone_weights

WARM_UP: Final = 100
AVERAGED: Final = 0.998
WEIGHT_DECAY: Final = 1e-2
LARGEST_GRADIENT: Final = 3.0
CANDIDATES_WEIGHT: Final = 0.4
IOU_WEIGHT: Final = 1.0
# Chances of 0, 1, 2 and 3 rounds that are only answered, between the two that teach.
SILENT_ROUNDS: Final = (0.5, 0.25, 0.15, 0.1)
FORGOTTEN_MASKS: Final = 0.08
COARSE_MASKS: Final = 0.25
# Blocks of the backbone that learn while tuning: its last three stages.
TUNED_FROM: Final = 11
BACKBONE_RATE: Final = 0.1
TUNING_RATE: Final = 3e-4
TUNING_COOLDOWN: Final = 0.6
LOOK_EVERY: Final = 25
SAVE_EVERY: Final = 100


@dataclass(frozen=True)
class Plan:
    """How to train. ``cooldown`` is the share of steps over which the learning rate falls to nothing.

    ``start`` is the digest of exported weights to go on from, whose early stages stay as they are; empty to train from
    nothing.
    """

    steps: int
    start: str = ""
    seed: int = 7
    images: int = 5
    objects: int = 3
    learning_rate: float = 1.7e-3
    cooldown: float = 0.3
    workers: int = 1

    @property
    def tunes(self) -> bool:
        """Whether training goes on from exported weights."""
        return bool(self.start)


class Trainer:
    """Network, optimiser and averaged network, and what is needed to go on after an interruption."""

    def __init__(self, folder: Path, plan: Plan, device: torch.device, graphs: Path | None = None) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        self.kept = folder / "tuning" if plan.tunes else folder
        self.kept.mkdir(exist_ok=True)
        torch.manual_seed(plan.seed)
        if graphs is None:
            self.encoder, self.decoder = Encoder(), Decoder()
            self.encoder.backbone.load(backbone_weights(folder))
        else:
            self.encoder, self.decoder = restore(graphs)
        self.encoder.backbone.requires_grad_(requires_grad=False)
        if plan.tunes:
            for block in self.encoder.backbone.blocks_from(TUNED_FROM):
                block.requires_grad_(requires_grad=True)
        self.encoder.to(device, memory_format=torch.channels_last)
        self.decoder.to(device, memory_format=torch.channels_last)
        backbone = [p for p in self.encoder.backbone.parameters() if p.requires_grad]
        others = [
            *(p for name, p in self.encoder.named_parameters() if not name.startswith("backbone.")),
            *self.decoder.parameters(),
        ]
        self.trained = [*others, *backbone]
        groups = [
            {"params": [p for p in some if (p.ndim > 1) is is_matrix], "weight_decay": decay, "share": share}
            for some, share in ((others, 1.0), (backbone, BACKBONE_RATE))
            for is_matrix, decay in ((True, WEIGHT_DECAY), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98))
        self.averaged: tuple[nn.Module, nn.Module] = (
            copy.deepcopy(self.encoder).eval(),
            copy.deepcopy(self.decoder).eval(),
        )
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        """Where the state lies."""
        return self.kept / "checkpoint.pt"

    @property
    def before_cooldown(self) -> Path:
        """The last state of full learning rate."""
        return self.kept / "before-cooldown.pt"

    @property
    def metrics(self) -> Path:
        """A line of JSON for every twenty-five steps, and for the last ones."""
        return self.kept / "metrics.jsonl"

    def save(self) -> None:
        """Write the state; a stop in between leaves the one before."""
        state = {
            "encoder": self.encoder.state_dict(),
            "decoder": self.decoder.state_dict(),
            "averaged encoder": self.averaged[0].state_dict(),
            "averaged decoder": self.averaged[1].state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "plan": asdict(self.plan),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)
        if self.step <= self.plan.steps * (1 - self.plan.cooldown):
            shutil.copyfile(self.checkpoint, self.before_cooldown)

    def forget(self) -> None:
        """Remove what an earlier training left."""
        for path in (self.checkpoint, self.before_cooldown, self.metrics):
            path.unlink(missing_ok=True)

    def resume(self) -> bool:
        """Go on from the last state, unless there is none or it began otherwise, and say whether it does.

        Where more steps are planned than then, it goes on from before the learning rate fell.
        """
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if [state["plan"][name] for name in ("start", "learning_rate")] != [self.plan.start, self.plan.learning_rate]:
            print(f"{self.checkpoint} began with other weights or at another rate: starting anew")
            return False
        if state["plan"]["steps"] < self.plan.steps and self.before_cooldown.exists():
            state = torch.load(self.before_cooldown, map_location=self.device, weights_only=True)
        self.encoder.load_state_dict(state["encoder"])
        self.decoder.load_state_dict(state["decoder"])
        self.averaged[0].load_state_dict(state["averaged encoder"])
        self.averaged[1].load_state_dict(state["averaged decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self.metrics.exists():
            rows = [line for line in self.metrics.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            self.metrics.write_text("".join(f"{row}\n" for row in rows))
        return True

    def learn(self) -> None:
        """Train until the plan's last step; progress, curves and state go to the folder."""
        plan = self.plan
        batches = Batches(
            self.folder,
            seed=plan.seed,
            images=plan.images,
            objects=plan.objects,
            step=self.step,
            steps=plan.steps,
            workers=plan.workers,
            phases=LARGE if plan.tunes else PHASES,
        )
        loader = DataLoader(batches, batch_size=None, num_workers=plan.workers, prefetch_factor=6)
        seen: list[dict[str, float]] = []
        since = time.monotonic()
        self.encoder.train()
        self.decoder.train()
        if plan.tunes:
            keep_norms(self.encoder)
            keep_norms(self.decoder)
        progress = tqdm(total=plan.steps, initial=self.step, desc="training", mininterval=5)
        for images, masks in loader:
            if self.step >= plan.steps:
                break
            for group in self.optimizer.param_groups:
                group["lr"] = plan.learning_rate * self._pace() * group["share"]
            seen.append(self._learn_from(images.to(self.device), masks.to(self.device)))
            self.step += 1
            progress.update()
            if self.step % LOOK_EVERY == 0 or self.step == plan.steps:
                row = {name: float(np.mean([item[name] for item in seen])) for name in seen[0]}
                row |= {"step": self.step, "seconds": (time.monotonic() - since) / len(seen)}
                with self.metrics.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                progress.set_postfix({name: f"{value:.3f}" for name, value in row.items() if name.startswith("iou")})
                seen, since = [], time.monotonic()
            if self.step % SAVE_EVERY == 0:
                self.save()
                draw(self.metrics, self.kept / "curves.png")
        progress.close()
        self.save()
        draw(self.metrics, self.kept / "curves.png")

    def _pace(self) -> float:
        """The learning rate as a share of the plan's."""
        left = (self.plan.steps - self.step) / max(1.0, self.plan.cooldown * self.plan.steps)
        return min(1.0, (self.step + 1) / WARM_UP, max(left, 0.01))

    def _learn_from(self, images: Tensor, masks: Tensor) -> dict[str, float]:
        objects = self.plan.objects
        rng = np.random.default_rng((self.plan.seed, 1, self.step))
        x = ((images.permute(0, 3, 1, 2).float() - MEAN) / SCALE).contiguous(memory_format=torch.channels_last)
        truth = masks.float()[:, None]
        half = functional.avg_pool2d(truth, 2)[:, 0]
        quarter = functional.avg_pool2d(truth, 4)[:, 0]
        shown = (quarter > 0.5).cpu().numpy()
        prompts = [first_prompt(mask, rng) for mask in shown]
        clicks = [prompt[0] for prompt in prompts]
        maps = np.stack([np.stack([prompt[1], np.zeros_like(prompt[1])]) for prompt in prompts])
        is_single = torch.tensor([len(some) == 1 for some in clicks], device=self.device) & (
            torch.from_numpy(maps[:, 0]).to(self.device).sum((1, 2)) == 0
        )

        with self._precision():
            embedding = [value.repeat_interleave(objects, 0) for value in self.encoder(x)]
        logits, iou = self._answer(embedding, clicks, maps)
        loss, first_iou = self._loss(logits, iou, half, quarter, is_single)
        for _ in range(int(rng.choice(len(SILENT_ROUNDS), p=SILENT_ROUNDS))):
            clicks, maps = self._corrected(shown, logits, clicks, maps, rng)
            with torch.no_grad():
                logits, iou = self._answer(embedding, clicks, maps)
        clicks, maps = self._corrected(shown, logits, clicks, maps, rng)
        logits, iou = self._answer(embedding, clicks, maps)
        last_loss, last_iou = self._loss(logits, iou, half, quarter, torch.zeros_like(is_single))

        self.optimizer.zero_grad(set_to_none=True)
        (loss + last_loss).backward()
        norm = nn.utils.clip_grad_norm_(self.trained, LARGEST_GRADIENT)
        self.optimizer.step()
        self._average(min(AVERAGED, 1 - 1 / (self.step * 0.2 + 1.01)))
        return {
            "loss": loss.item(),
            "last loss": last_loss.item(),
            "iou": first_iou[0],
            "iou of the best": first_iou[1],
            "iou error": first_iou[2],
            "last iou": last_iou[0],
            "last iou error": last_iou[2],
            "gradient": norm.item(),
        }

    def _precision(self) -> torch.autocast:
        """Half precision where the device has units for it.

        A step took 1.2 instead of 1.8 s with it on a processor whose AVX-512 has instructions for it, 2.0 instead of
        1.35 s on one with AVX-512 alone, and eight times as long on one without.
        """
        has_units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
        is_quick = self.device.type != "cpu" or has_units
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_quick)

    def _answer(self, embedding: list[Tensor], clicks: list[list[Click]], maps: Any) -> tuple[Tensor, Tensor]:
        points = torch.from_numpy(packed(clicks)).to(self.device)
        with self._precision():
            logits, iou = self.decoder(*embedding, points, torch.from_numpy(maps).to(self.device))
        return logits.float(), iou.float()

    @staticmethod
    def _loss(
        logits: Tensor, iou: Tensor, half: Tensor, quarter: Tensor, is_single: Tensor
    ) -> tuple[Tensor, tuple[float, float, float]]:
        """The loss; and the mask's mean IoU, that of the best mask, and how far predicted IoU is off."""
        doubled = functional.interpolate(logits[:, :1], scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
        loss = mask_loss(doubled, half).mean()
        if is_single.any():
            loss = loss + CANDIDATES_WEIGHT * candidates_loss(logits[is_single, 1:], quarter[is_single]).mean()
        reached = hard_iou(logits.detach(), quarter)
        judged = torch.ones_like(iou)
        judged[:, 1:] = is_single[:, None].float()
        error = (iou - reached).abs()
        loss = loss + IOU_WEIGHT * (functional.smooth_l1_loss(iou, reached, reduction="none", beta=0.1) * judged).mean()
        best = reached[is_single].amax(1).mean() if is_single.any() else reached.amax(1).mean()
        return loss, (reached[:, 0].mean().item(), best.item(), error[:, 0].mean().item())

    @staticmethod
    def _corrected(
        shown: Any, logits: Tensor, clicks: list[list[Click]], maps: Any, rng: np.random.Generator
    ) -> tuple[list[list[Click]], Any]:
        """More clicks, and the answer as the previous mask; now and then forgotten, or from a coarser look."""
        probability = torch.sigmoid(logits.detach()[:, :1])
        clicks = [
            correct(truth, found, some, rng)
            for truth, found, some in zip(shown, (probability[:, 0] > 0.5).cpu().numpy(), clicks, strict=True)
        ]
        if rng.random() < COARSE_MASKS:
            size = probability.shape[-2:]
            factor = float(rng.uniform(0.5, 0.9))
            coarse = functional.interpolate(probability, scale_factor=factor, mode="bilinear", align_corners=False)
            probability = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        maps = maps.copy()
        maps[:, 1] = probability[:, 0].cpu().numpy()
        maps[rng.random(len(maps)) < FORGOTTEN_MASKS, 1] = 0
        return clicks, maps

    def _average(self, kept: float) -> None:
        networks: tuple[nn.Module, nn.Module] = self.encoder, self.decoder
        with torch.no_grad():
            for average, network in zip(self.averaged, networks, strict=True):
                for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    if mean.dtype.is_floating_point:
                        mean.lerp_(value, 1 - kept)
                    else:
                        mean.copy_(value)


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description="Train the built-in network.")
    parser.add_argument("folder", type=Path, help="what training.prepare filled")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tune", type=Path, metavar="GRAPHS", help="go on from the encoder and decoder in this folder")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--images", type=int, default=Plan.images, help="a step, at 320 x 320")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="processes that make scenes")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this training, if any")
    arguments = parser.parse_args()
    plan = Plan(arguments.steps, seed=arguments.seed, images=arguments.images, workers=arguments.workers)
    if arguments.tune:
        plan = replace(plan, start=digest(arguments.tune), learning_rate=TUNING_RATE, cooldown=TUNING_COOLDOWN)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(arguments.folder, plan, device, arguments.tune)
    if not (arguments.resume and trainer.resume()):
        trainer.forget()
    trainer.learn()


if __name__ == "__main__":
    main()
