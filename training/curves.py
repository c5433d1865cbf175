"""Curves of a training as a picture."""

import json
from pathlib import Path

from matplotlib.figure import Figure


def draw(metrics: Path, picture: Path) -> None:
    """IoU and loss over steps, from the lines that the loop writes."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(10, 4), layout="constrained")
    quality, loss = figure.subplots(1, 2)
    names = {
        "iou": "first answer",
        "iou of the best": "best candidate of one click",
        "last iou": "after corrections",
        "iou error": "error of predicted IoU",
    }
    for name, label in names.items():
        quality.plot(steps, [row[name] for row in rows], label=label, linewidth=1)
    quality.set(xlabel="step", ylabel="IoU on fresh scenes", ylim=(0, 1))
    quality.legend(fontsize="small")
    for name, label in {"loss": "first answer", "last loss": "after corrections"}.items():
        loss.plot(steps, [row[name] for row in rows], label=label, linewidth=1)
    loss.set(xlabel="step", ylabel="loss", yscale="log")
    loss.legend(fontsize="small")
    figure.savefig(picture, dpi=110)
