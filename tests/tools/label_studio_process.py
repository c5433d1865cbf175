"""Decodes brush masks with Label Studio's own SDK: python label_studio_process.py IN OUT.

Runs in the tool's environment, without osamd. IN is a JSON list of masks, each with ``rle``, ``height`` and ``width``;
OUT an npz of (height, width, 4) arrays.
"""

import json
import sys
from pathlib import Path

import numpy as np
from label_studio_sdk.converter.brush import decode_rle

if __name__ == "__main__":
    masks = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    shapes = [(mask["height"], mask["width"], 4) for mask in masks]
    np.savez(sys.argv[2], *(decode_rle(mask["rle"]).reshape(shape) for mask, shape in zip(masks, shapes, strict=True)))
