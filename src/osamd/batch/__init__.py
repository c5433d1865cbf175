"""Segment many images without a server.

::

    from osamd.batch import Segmenter

    with Segmenter("builtin") as segment:
        for result in segment(["a.jpg", "b.jpg"], [{"points": [[225, 150]], "point_labels": [1]}] * 2):
            print(result.boxes, result.scores, result.masks.shape)

A ``Segmenter`` belongs to one process. It can be pickled, as can its arguments; a copy reloads the model. Worker pools
and Ray Data's ``map_batches(Segmenter, ...)`` rely on that.
"""

from osamd.batch.images import AnyImage
from osamd.batch.prompts import AnyPrompt, Prompts
from osamd.batch.results import Result
from osamd.batch.segmenter import Segmenter

__all__ = ["AnyImage", "AnyPrompt", "Prompts", "Result", "Segmenter"]
