"""Where colours change."""

import cv2
import numpy as np
import numpy.typing as npt

from training.library import ByteArray


def gradient(image: ByteArray, *, sigma: float) -> npt.NDArray[np.float32]:
    """How fast the colours of an (H, W, 3) uint8 RGB image change, (H, W), 1 at the 90th percentile.

    In Lab, smoothed by ``sigma`` pixels, by Scharr's operator.
    """
    lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), sigma)
    slopes = [np.asarray(cv2.Scharr(lab, cv2.CV_32F, *axis)) for axis in ((1, 0), (0, 1))]
    size = np.sqrt((slopes[0] ** 2 + slopes[1] ** 2).sum(2))
    return np.asarray(size / (np.percentile(size, 90) + 1e-3), np.float32)
