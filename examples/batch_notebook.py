"""Segment arrays, Pillow images and files without a server, as in a notebook.

python examples/batch_notebook.py
"""

# %% Load a model once.
from pathlib import Path

import numpy as np
from PIL import Image

from osamd.batch import Segmenter

segment = Segmenter("builtin")
cat = Path(__file__).with_name("cat.jpg")

# %% Images are paths, Pillow images, NumPy arrays or bytes; each has its own prompts.
picture = Image.open(cat)
pixels = np.asarray(picture.convert("RGB"))
click = {"points": [[225, 150]], "point_labels": [1]}
box = {"box": [105, 30, 375, 290]}
results = segment([cat, picture, pixels], [click, box, [click, box]])

# %% Masks are (N, height, width) bool, boxes (N, 4) with both corners included, scores (N,) from 0 to 1.
for result in results:
    print(result.masks.shape, result.boxes.tolist(), result.scores.round(2).tolist())

# %% Use a mask: the mean colour of the object.
mask = results[0].masks[0]
print("mean colour", pixels[mask].mean(axis=0).round().astype(int).tolist())

# %% A bad image fails alone.
(bad,) = segment([b"no image"])
print("error:", bad.error)
segment.close()
