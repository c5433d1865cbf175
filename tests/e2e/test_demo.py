"""``make demo``: the script behind it, in a folder of its own."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from pictures import png_pixels
from PIL import Image
from serving import clean_environment
from waiting import WAIT_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the demo needs of a clone."""
    for name in ("scripts/demo.py", "send_request_example.py", "examples/cat.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def processes_with(mark: str) -> int:
    """How many processes have this in their environment."""
    count = 0
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            count += mark.encode() in environment.read_bytes()
        except OSError:
            continue
    return count


def run_demo(clone: Path, extra: Mapping[str, str]) -> tuple[int, str, str, int]:
    """Exit code, both outputs, and the most processes seen at once; fails when one outlives the demo."""
    mark = secrets.token_hex(8)
    seen = 0
    process = subprocess.Popen(
        [sys.executable, str(clone / "scripts" / "demo.py")],
        env=clean_environment({"DEMO_MARK": mark, "OSAMD_CACHE": str(clone / "cache"), **extra}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < until:
        seen = max(seen, processes_with(mark))
        time.sleep(0.02)
    output, messages = process.communicate(timeout=10)
    assert processes_with(mark) == 0
    return process.returncode, output, messages, seen


def test_demo_writes_its_files_and_stops_its_server(clone: Path) -> None:
    """It exits with 0, writes a mask, an overlay and the reply, says what was found, and leaves no process."""
    # What a shell may have left behind does not matter.
    extra = {"OSAMD_PRELOAD": "sam:100m", "API_KEY": "left-over", "PORT": "1"}
    code, output, messages, seen = run_demo(clone, extra)

    assert (code, messages) == (0, "")
    assert seen >= 2
    mask = png_pixels((clone / "demo" / "mask.png").read_bytes())
    assert mask.shape == (300, 451)
    assert mask[150, 225] == 255
    with Image.open(clone / "demo" / "overlay.png") as overlay:
        assert overlay.size == (451, 300)
    assert (clone / "demo" / "reply.json").is_file()
    for part in ("bounding box", "first request", "next click", "demo/mask.png", "demo/overlay.png", "osamd serve"):
        assert part in output
    assert "left-over" not in output


def test_demo_that_fails_says_so(clone: Path) -> None:
    """With a photo that is none it exits with non-zero, says why, and leaves no process."""
    (clone / "examples" / "cat.jpg").write_bytes(b"no photo")
    code, output, messages, seen = run_demo(clone, {})

    assert code != 0
    assert seen >= 2
    assert output == ""
    assert "not an image" in messages
    assert not (clone / "demo" / "mask.png").exists()


def test_what_it_writes_is_ignored_by_git() -> None:
    """``demo/`` never shows up as a change."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    ended = subprocess.run(
        ["git", "check-ignore", "demo/mask.png", "demo/overlay.png", ".env"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.split() == ["demo/mask.png", "demo/overlay.png", ".env"]
