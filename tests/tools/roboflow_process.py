"""Drives Roboflow's own SDK and supervision: python roboflow_process.py URL KEY PHOTO OUT.

Runs in the tool's environment, without osamd. Writes the masks as arrays into OUT, an npz.
"""

import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import supervision as sv  # noqa: E402
from inference_sdk import InferenceConfiguration, InferenceHTTPClient  # noqa: E402
from pycocotools import mask as coco  # noqa: E402

CLICK = [{"points": [{"x": 225, "y": 150, "positive": True}]}]
BOX = [{"box": {"x": 230, "y": 155, "width": 340, "height": 270}}]


def main(url: str, key: str, photo: str, out: str) -> None:
    """Ask everything once."""
    client = InferenceHTTPClient(api_url=f"{url}/roboflow", api_key=key)
    height, width = np.asarray(cv2.imread(photo)).shape[:2]
    found = {}

    def in_detections(reply: dict[str, object]) -> np.ndarray:
        return np.asarray(sv.Detections.from_sam3(reply, (width, height)).mask)

    def in_runs(reply: dict[str, list[dict[str, object]]]) -> np.ndarray:
        return np.stack([coco.decode(prediction["masks"]) for prediction in reply["predictions"]]) > 0

    asked = {"sam2_version_id": "builtin", "mask_input_format": "rle"}
    found["click"] = in_runs(client.sam2_segment_image(photo, prompts=CLICK, **asked))
    found["box"] = in_runs(client.sam2_segment_image(photo, prompts=BOX, **asked))
    found["two"] = in_runs(client.sam2_segment_image(photo, prompts=CLICK + BOX, **asked))
    found["default"] = in_runs(client.sam2_segment_image(photo, **asked))
    found["click_sam2"] = in_runs(client.sam2_segment_image(photo, prompts=CLICK, mask_input_format="rle"))
    found["detections"] = in_detections(client.sam2_segment_image(photo, prompts=CLICK, sam2_version_id="builtin"))
    client.sam3_embed_image(photo)
    words = [{"type": "text", "text": "cat"}]
    told = client.sam3_concept_segment(photo, prompts=words, format="rle", output_prob_thresh=0.2)
    found["words"] = in_runs(told["prompt_results"][0])
    found["words_polygons"] = in_detections(client.sam3_concept_segment(photo, prompts=words, output_prob_thresh=0.2))
    client.configure(InferenceConfiguration(api_key_transport="header"))
    found["bearer"] = in_runs(client.sam2_segment_image(photo, prompts=CLICK, **asked))
    errors = []
    for guess, version in (("a-wrong-key-5fP", "builtin"), (key, "hiera_huge")):
        try:
            InferenceHTTPClient(api_url=f"{url}/roboflow", api_key=guess).sam2_segment_image(
                photo, prompts=CLICK, sam2_version_id=version
            )
        except Exception as error:  # noqa: BLE001 - whatever it raises, it shows
            errors.append(str(error))
    found["errors"] = np.array(errors)
    arrays: Any = found
    np.savez(out, **arrays)


main(*sys.argv[1:])
