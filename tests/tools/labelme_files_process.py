"""Reads labelme files with labelme's own loader: python labelme_files_process.py FOLDER OUT.

Runs in the tool's environment, without osamd. Writes each shape's mask into OUT, an npz, named FILE:NUMBER:LABEL.
"""

import importlib
import io
import sys
from pathlib import Path

import numpy as np
from labelme._label_file import read_label_file
from PIL import Image

# labelme 6 has it elsewhere.
MODULE = "labelme._utils._mask" if sys.version_info >= (3, 12) else "labelme.utils"
shapes_to_label = importlib.import_module(MODULE).shapes_to_label


def main(folder: Path, out: Path) -> None:
    """Read all files of a folder."""
    masks = {}
    for file in sorted(folder.rglob("*.json")):
        content = read_label_file(filename=str(file))
        with Image.open(io.BytesIO(content.image_data)) as picture:
            size = (picture.height, picture.width)
        for number, shape in enumerate(content.shapes):
            classes, _ = shapes_to_label(img_shape=size, shapes=[shape], label_name_to_value={shape["label"]: 1})
            masks[f"{file.stem}:{number}:{shape['label']}"] = np.asarray(classes) == 1
    np.savez(out, **masks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
