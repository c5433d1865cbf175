"""Drives labelme's whole window, started as ``osamd labelme`` starts it; test_labelme_window.py runs it.

Arguments: a photo, a folder for screenshots. Prints one JSON line of what the window shows.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from osamd.cli.main import main

# labelme gets other arguments later.
PHOTO, FOLDER = map(Path, sys.argv[1:3])
CLICK, SECOND = (225, 150), (315, 130)
BOX = (60, 20, 400, 290)
QT = "PySide6" if sys.version_info >= (3, 12) else "PyQt5"
core, widgets, test = (importlib.import_module(f"{QT}.{name}") for name in ("QtCore", "QtWidgets", "QtTest"))


class Window:
    """labelme's window and its mouse."""

    def __init__(self) -> None:
        (self.window,) = [
            window for window in widgets.QApplication.topLevelWidgets() if isinstance(window, widgets.QMainWindow)
        ]
        self.window.resize(1400, 900)
        self.canvas = self.window._canvas_widgets.canvas
        self.settle()

    def settle(self) -> None:
        """Let the window handle what happened, requests included: they block it."""
        test.QTest.qWait(200)

    def place(self, x: float, y: float) -> Any:
        """A point of the image on the canvas."""
        origin = (
            self.canvas._compute_image_origin_offset(area=None)
            if QT == "PySide6"
            else self.canvas._compute_image_origin_offset()
        )
        return ((core.QPointF(x, y) + origin) * self.canvas.scale).toPoint()

    def mode(self, name: str) -> None:
        """Choose AI-Points or AI-Box."""
        self.window._switch_canvas_mode(edit=False, create_mode=name)
        self.settle()

    def move(self, x: float, y: float) -> None:
        """Move there, which shows a preview."""
        test.QTest.mouseMove(self.canvas, self.place(x, y))
        self.settle()

    def click(self, x: float, y: float, *, is_last: bool = False) -> None:
        """Move there and click; with the control key, which finishes a shape, the last time."""
        keys = core.Qt.KeyboardModifier.ControlModifier if is_last else core.Qt.KeyboardModifier.NoModifier
        self.move(x, y)
        test.QTest.mouseClick(self.canvas, core.Qt.MouseButton.LeftButton, keys, self.place(x, y))
        self.settle()

    def picture(self, file: str) -> None:
        """A screenshot."""
        self.window.grab().save(str(FOLDER / file))

    def status(self) -> str:
        """The text of the status bar."""
        return str(self.window.statusBar().currentMessage())

    def shapes(self) -> list[Any]:
        """The outlines of all shapes."""
        return [[[float(x), float(y)] for x, y in map(pair, shape.points)] for shape in self.canvas.shapes]


def answer_label(*_: Any, **__: Any) -> Any:
    """What the dialog for labels returns."""
    if QT == "PyQt5":
        return "cat", {}, None, ""
    entry = importlib.import_module("labelme._widgets").LabelDialogEntry
    return entry(label="cat", flags={}, group_id=None, description="")


def pair(point: Any) -> tuple[float, float]:
    """x, y of a point, which is an array or Qt's."""
    return (point.x(), point.y()) if hasattr(point, "x") else (point[0], point[1])


def session(model: str) -> list[Any]:
    """Masks by labelme's own session for a click and a box: bounding box and mask sums."""
    osam_session = importlib.import_module("labelme._automation").OsamSession(model_name=model)
    image = np.asarray(importlib.import_module("PIL.Image").open(PHOTO).convert("RGB"))
    told = []
    for points, labels in (([CLICK], [1]), ([CLICK, SECOND], [1, 0]), ([BOX[:2], BOX[2:]], [2, 3])):
        answer = osam_session.run(
            image=image, image_id="one", points=np.array(points, float), point_labels=np.array(labels)
        )
        told.append([item.model_dump(mode="json") for item in answer.annotations])
    return told


def drive() -> None:
    """Click, and print what came of it."""
    told: dict[str, Any] = {"qt": QT}
    try:
        window = Window()
        # A finished shape asks for its label; the answer is the text typed here.
        type(window.window._label_dialog).popup = answer_label
        window.mode("ai_points_to_shape")
        window.click(*CLICK)
        window.move(*SECOND)
        window.picture("labelme.png")
        told["status"] = window.status()
        window.click(*SECOND, is_last=True)
        told["shapes"] = window.shapes()
        window.picture("labelme-shape.png")
        if not told["status"].startswith("AI inference failed"):
            told["session"] = session("sam2:latest")
    except Exception:  # noqa: BLE001 - reported
        told["error"] = traceback.format_exc()
    print(json.dumps(told), file=sys.__stdout__, flush=True)
    # labelme would ask whether to save.
    os._exit(0)


if __name__ == "__main__":
    run = "exec" if QT == "PySide6" else "exec_"
    execute = getattr(widgets.QApplication, run)

    def execute_driven(*_: Any) -> int:
        """Drive the window once its event loop runs."""
        core.QTimer.singleShot(0, drive)
        return int(execute())

    setattr(widgets.QApplication, run, execute_driven)
    sys.exit(main(["labelme", "--config", "{auto_save: false}", str(PHOTO)]))
