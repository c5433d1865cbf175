"""What a cold start consists of, part by part: ``python cold_parts.py STARTED_AT ENCODER DECODER`` prints JSON.

STARTED_AT is the parent's ``time.perf_counter()`` when it started this process; on Linux both read the same clock.
"""

import json
import sys
import time

HERE = time.perf_counter()


class Stopwatch:
    """Seconds by part, each from the end of the one before."""

    def __init__(self, started_at: float) -> None:
        self.parts = {"interpreter": HERE - started_at}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.parts[name] = now - self._last
        self._last = now


def main() -> None:
    """Do what a server does up to the second run of its encoder."""
    started_at, encoder, decoder = sys.argv[1:]
    watch = Stopwatch(float(started_at))
    import osamd.server.app  # noqa: F401, PLC0415

    watch.lap("imports before listening")
    import cv2  # noqa: F401, PLC0415
    import numpy as np  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415
    import PIL.Image  # noqa: F401, PLC0415

    watch.lap("imports of ONNX Runtime, OpenCV and Pillow")
    for path in (encoder, decoder):
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not in the part that is timed
            while file.read(1 << 20):
                pass
    watch.lap("reading the weights")
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (encoder, decoder)]
    watch.lap("sessions")
    pixels = np.zeros((1, 3, 1024, 1024), np.float32)
    for name in ("first run of the encoder", "second run of the encoder"):
        sessions[0].run(None, {"batched_images": pixels})
        watch.lap(name)
    print(json.dumps(watch.parts))


if __name__ == "__main__":
    main()
