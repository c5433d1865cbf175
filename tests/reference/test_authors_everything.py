"""Everything mode against the authors' ``SamAutomaticMaskGenerator``, on the same random weights."""

from typing import Any, Final

import numpy as np
import pytest
from asking import ask
from peer import overlap
from pictures import inside_of_runs
from serving import RunningServer

from osamd.types import ByteArray

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

SAME: Final = 0.95
LEAST: Final = 0.95
# Fewer masks would tell little.
FEWEST: Final = 30
# No box overlaps another by more than 1, so that all masks stay that pass the two thresholds: with random weights many
# boxes are nearly equal, and which of them stays hangs on the last digit.
PARAMETERS: Final = {
    "points_per_side": 8,
    "pred_iou_thresh": 0.01,
    "stability_score_thresh": 0.5,
    "stability_score_offset": 0.001,
    "box_nms_thresh": 1.0,
}


def matched(masks: list[Any], others: list[Any]) -> float:
    """The share of masks that one of the others is the same as."""
    return float(np.mean([max((overlap(mask, other) for other in others), default=0.0) >= SAME for mask in masks]))


def test_masks_are_those_of_the_authors(
    reference_server: RunningServer, local_authors: Any, picture: ByteArray, photo: bytes
) -> None:
    """With their parameters and without skipping, both ways: nothing is missing and nothing is added."""
    from segment_anything import SamAutomaticMaskGenerator  # noqa: PLC0415

    theirs = [item["segmentation"] for item in SamAutomaticMaskGenerator(local_authors, **PARAMETERS).generate(picture)]
    limits = {"skip_explained": False, "max_masks": 1000, "max_seconds": 800}
    with reference_server.client(timeout=1200) as client:
        reply = ask(client, photo, model="sam-three", prompt={"everything": PARAMETERS | limits}, mask_format="rle")
    assert reply["everything"]["stopped"] == "all_points"
    ours = [inside_of_runs(item["mask"]) for item in reply["annotations"]]
    print(f"\n{len(theirs)} masks of theirs, {len(ours)} of ours")
    print(f"matched: {matched(theirs, ours):.3f} of theirs, {matched(ours, theirs):.3f} of ours")
    # Of 192 candidates: both thresholds drop some.
    assert FEWEST <= min(len(theirs), len(ours)) <= max(len(theirs), len(ours)) < 192
    assert matched(theirs, ours) >= LEAST
    assert matched(ours, theirs) >= LEAST
