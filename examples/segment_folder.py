"""Cut the object out of every photo of a folder, without a server.

    python examples/segment_folder.py PHOTOS MASKS

Each PHOTOS/NAME.jpg becomes MASKS/NAME.png, white where the object in the middle of the photo is.
"""

import sys
from pathlib import Path

from PIL import Image

from osamd.batch import Segmenter


def main(photos: Path, masks: Path) -> int:
    """Returns the exit code: 1 when a photo could not be read."""
    paths = sorted(photos.glob("*.jpg"))
    masks.mkdir(parents=True, exist_ok=True)
    code = 0
    with Segmenter("builtin") as segment:
        for path, result in zip(paths, segment(paths), strict=True):
            if result.error is not None:
                print(f"{path}: {result.error}", file=sys.stderr)
                code = 1
            elif len(result.masks):
                Image.fromarray(result.masks[0]).save(masks / f"{path.stem}.png")
                print(f"{path}: box {result.boxes[0].tolist()}, score {result.scores[0]:.2f}")
            else:
                print(f"{path}: nothing found")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
