"""Long searches for what nobody thought of; ``make proof`` runs them, PROOF_S seconds each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pictures import base64_of, disc_picture, encoded
from PIL import Image
from serving import KEY, run_server
from tiffs import tiff

from osamd.settings import DoorName

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("PROOF_S", "60"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)

pytestmark = pytest.mark.proof


def searched(*command: str) -> str:
    """What a search printed; fails with it when something was found."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS * 3 + 120, check=False
    )
    printed = done.stdout + done.stderr
    assert 0 == done.returncode, printed[-8000:]
    return printed


def test_the_served_document_is_kept(tmp_path: Path) -> None:
    """Schemathesis finds no 5xx but 503 and 504, no answer that the document does not have, and no open door."""
    doors = ",".join(get_args(DoorName))
    env = {
        "API_KEY": KEY,
        "OSAMD_DOORS": doors,
        "OSAMD_KEYLESS_NETWORKS": "none",
        "OSAMD_REQUESTS_PER_MINUTE": "1000000",
        "OSAMD_WRONG_KEYS_PER_MINUTE": "100000",
    }
    with run_server(cache=tmp_path, env=env) as running:
        printed = searched(
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(HERE / "schemathesis.toml"),
            "run",
            f"{running.url}/openapi.json",
            "--header",
            f"X-API-Key: {KEY}",
            "--checks",
            ",".join(CHECKS),
            "--max-time",
            str(SECONDS),
            "--no-color",
        )
        with running.client() as client:
            assert 200 == client.get("/ready").status_code
    print(printed[-600:])
    assert "Traceback" not in running.log_text()


def seeds_of_images(folder: Path) -> None:
    """A small picture of each kind."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"):
        (folder / kind).write_bytes(encoded(disc_picture(), kind))
    deep = np.asarray(disc_picture()).astype(np.uint16) * 4
    (folder / "png-16").write_bytes(encoded(Image.fromarray(deep[:, :, 0])))
    (folder / "tiff-16").write_bytes(tiff(deep, photometric=2, compression=8, predictor=2, tile=(64, 48)))
    (folder / "tiff-float").write_bytes(tiff(deep.astype(np.float32), compression=8, predictor=3, is_separate=True))


def seeds_of_bodies(folder: Path) -> None:
    """A request of each kind."""
    prompt = {"points": [[1, 2], [3, 4]], "point_labels": [1, 0], "box": [1, 2, 3, 4], "texts": ["cat"]}
    mask = base64_of(encoded(disc_picture().convert("L")))
    whole = {
        "model": "sam",
        "image": "aGVsbG8=",
        "prompts": [prompt, {"mask_input": mask}],
        "multimask": True,
        "mask_format": "rle",
    }
    parts = "".join(
        f'--seam\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {
            "point": "1,2",
            "box": "1,2,3,4",
            "image_id": "img_0",
            "keep_alive": "5m",
            "mask_input": mask,
        }.items()
    )
    lists = {"original_height": 8, "original_width": 8, "embedding": [[[0.5, 1e-3], [1, 2]]] * 2}
    bodies = {
        "json": (0, b"", json.dumps(whole).encode()),
        "escapes": (0, b"", json.dumps(whole).replace("/", "\\/").replace("=", "\\u003d").encode()),
        "utf-16": (0, b"", json.dumps(whole).encode("utf-16")),
        "lists": (0, b"", json.dumps({"image_embedding": lists}).encode()),
        "multipart": (1, b"", parts.encode() + b"--seam--\r\n"),
        "query": (2, b"point=1,2&text=a&box=0,0", b"image"),
        "form": (3, b"", b"image=aGVsbG8%3D&point=1%2C2&include=image_embedding&multimask=true"),
    }
    base64_image, click = {"type": "base64", "value": "aGVsbG8="}, {"points": [{"x": 1, "y": 2, "positive": True}]}
    labels = "<Label value='Cat' predicted_values='a,b'/>"
    studio_task = {
        "tasks": [{"id": 1, "data": {"image": "/data/upload/1/a.jpg"}, "drafts": [{"result": ['\\"']}]}],
        "label_config": f"<View><Image name='i' value='$image'/><BrushLabels toName='i'>{labels}</BrushLabels></View>",
    }
    size = {"original_width": 4, "original_height": 2, "type": "keypointlabels"}
    key_point = {**size, "value": {"x": 5, "y": 5, "keypointlabels": ["Cat"]}, "is_positive": False}
    stroke = {**size, "value": {"rle": [0, 0, 0, 32, 57, 27, 252, 191, 255, 0], "labels": ["Cat"]}}
    of_tools: list[dict[str, object]] = [
        {"image": base64_image, "prompts": {"prompts": [click, {"box": {"x": 1, "y": 2, "width": 3, "height": 4}}]}},
        {"image": base64_image, "prompts": [{"text": "cat", "boxes": [{"x0": 1, "y0": 2, "x1": 3, "y1": 4}]}]},
        {"image": [base64_image], "point_coords": [[1, 2]], "point_labels": [1]},
        {"image": {"type": "url", "value": "https:\\/\\/example.com"}},
        {"type": "sam2_t", "b64img": "aGVsbG8=", "bbox": [1, 2, 3, 4], "point_coords": [[1, 2]], "point_labels": [1]},
        {"type": "sam3", "b64img": "aGVsbG8=", "text_prompt": "cat", "positive_bboxes": [[1, 2, 3, 4]]},
        {"model": "builtin", "image": "aGVsbG8=", "params": {"marks": [{"type": "point", "data": [1, 2], "label": 1}]}},
        {"image": "aGVsbG8=", "pos_points": [[1, 2]], "neg_points": [], "obj_bbox": [[1, 2], [3, 4]]},
        {"image": "aGVsbG8=", "threshold": 0.5},
        {**studio_task, "params": {"context": {"result": [key_point, stroke]}}},
        {**studio_task, "params": {"context": {"event": "prewarm"}}},
    ]
    for number, body in enumerate(of_tools):
        bodies[f"tool-{number}"] = (5 + number, b"", json.dumps(body).encode())
    for name, (kind, query, raw) in bodies.items():
        (folder / name).write_bytes(bytes([kind, len(query), 0, 0, 0]) + query + raw)
        # The same with its middle repeated.
        (folder / f"{name}-large").write_bytes(bytes([kind, len(query), 12, 90, 160]) + query + raw)


@pytest.mark.parametrize(("program", "plant"), [("fuzz_images", seeds_of_images), ("fuzz_bodies", seeds_of_bodies)])
def test_fuzzed_inputs_raise_only_documented_errors(program: str, plant: object, tmp_path: Path) -> None:
    """Atheris, which is guided by the code that an input reaches, finds none that raises what is not documented."""
    assert callable(plant)
    plant(tmp_path)
    flags = [f"-max_total_time={SECONDS}", "-max_len=65536", "-timeout=20", "-rss_limit_mb=4096"]
    flags += ["-print_final_stats=1"]
    printed = searched(
        sys.executable, str(HERE / f"{program}.py"), *flags, f"-artifact_prefix={tmp_path}/", str(tmp_path)
    )
    print("\n".join(line for line in printed.splitlines() if line.startswith(("Done", "stat::"))))
