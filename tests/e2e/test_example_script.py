"""``send_request_example.py``: where its values come from, what it says, and what it writes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pictures import disc_picture, encoded, png_pixels
from PIL import Image
from serving import KEY, RunningServer, clean_environment, free_port, run_server
from waiting import WAIT_S

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "send_request_example.py"
Ended = subprocess.CompletedProcess[str]


def run_example(*arguments: str, env: Mapping[str, str], script: Path = SCRIPT, cwd: Path | None = None) -> Ended:
    """Run the script to its end."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env=clean_environment(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def copy_with_constants(folder: Path, *, endpoint: str, key: str) -> Path:
    """The script with its two constants edited, as its user would."""
    text = SCRIPT.read_text("utf-8")
    lines = ['API_ENDPOINT = "http://127.0.0.1:11368/api/generate"', 'API_KEY = "YOUR_API_KEY"']
    assert all(text.count(f"\n{line}\n") == 1 for line in lines)
    text = text.replace(lines[0], f'API_ENDPOINT = "{endpoint}"').replace(lines[1], f'API_KEY = "{key}"')
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "cat.jpg", folder / "examples")
    script = folder / SCRIPT.name
    script.write_text(text, "utf-8")
    return script


def test_writes_mask_overlay_and_json(server: RunningServer, tmp_path: Path) -> None:
    """With a photo and a click it says Success and leaves three files."""
    env = {"OSAMD_URL": server.url, "API_KEY": KEY}
    ended = run_example("--point", "225,150", "--output", str(tmp_path / "made"), env=env)

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.startswith("Success: builtin:latest, 1 object(s) in 451 x 300 pixels")
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"mask.png", "overlay.png", "reply.json"}
    reply = json.loads((tmp_path / "made" / "reply.json").read_text())
    mask = png_pixels((tmp_path / "made" / "mask.png").read_bytes())
    with Image.open(tmp_path / "made" / "overlay.png") as overlay:
        assert (overlay.size, overlay.mode) == ((451, 300), "RGB")
    assert mask.shape == (300, 451)
    box = reply["annotations"][0]["bounding_box"]
    assert f"box ({box['xmin']}, {box['ymin']}, {box['xmax']}, {box['ymax']})" in ended.stdout


def test_all_prompts_can_be_given(server: RunningServer, tmp_path: Path) -> None:
    """Points, background points, a box and a model's name reach the server, and so does another photo."""
    picture = tmp_path / "disc.png"
    picture.write_bytes(encoded(disc_picture()))
    prompt = ["--point", "70,50", "--background", "200,120", "--box", "38,18,102,82", "--model", "builtin"]
    ended = run_example("--image", str(picture), *prompt, env={"OSAMD_URL": server.url, "API_KEY": KEY}, cwd=tmp_path)

    assert ended.returncode == 0, ended.stderr
    mask = png_pixels((tmp_path / "mask.png").read_bytes())
    assert mask.shape == (160, 240)
    assert mask[50, 70] == 255
    assert mask[120, 200] == 0


def test_environment_wins_over_constants(server: RunningServer, tmp_path: Path) -> None:
    """The constants at the top are used, unless the environment says otherwise."""
    right = copy_with_constants(tmp_path, endpoint=f"{server.url}/api/generate", key=KEY)
    by_constants = run_example(env={}, script=right, cwd=tmp_path)
    by_environment = run_example(env={"API_KEY": "wrong"}, script=right, cwd=tmp_path)
    nowhere = run_example(env={"OSAMD_URL": server.url + "/nowhere"}, script=right, cwd=tmp_path)

    assert by_constants.returncode == 0, by_constants.stderr
    assert by_environment.returncode == 3
    assert nowhere.returncode != 0


def test_arguments_win_over_environment(server: RunningServer, tmp_path: Path) -> None:
    """Arguments beat the environment and the constants."""
    env = {"OSAMD_URL": "http://127.0.0.1:1", "API_KEY": "wrong"}
    ended = run_example("--url", server.url, "--api-key", KEY, env=env, cwd=tmp_path)

    assert ended.returncode == 0, ended.stderr


def test_wrong_key_is_told(server: RunningServer, tmp_path: Path) -> None:
    """403: the message says what to set, without the key; nothing is written."""
    ended = run_example(env={"OSAMD_URL": server.url, "API_KEY": "my-wrong-key"}, cwd=tmp_path)

    assert (ended.returncode, ended.stdout) == (3, "")
    assert "403" in ended.stderr
    assert "API_KEY" in ended.stderr
    assert "my-wrong-key" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_untouched_constants_send_no_key(server: RunningServer, tmp_path: Path) -> None:
    """The placeholder is not sent as if it were a key."""
    ended = run_example(env={"OSAMD_URL": server.url}, cwd=tmp_path)

    assert ended.returncode == 3
    assert "missing" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--point", "9000,1"], 2, ["422", "prompt.points[0]", "451 x 300"]),
        (["--model", "nope"], 2, ["404", "nope", "builtin:latest"]),
        (["--model", "sam_vit_b"], 5, ["503", "sam:100m", "sha256-3346b9cc551c9902"]),
        (["--box", "1,2,3"], 2, ["422", "prompt.box"]),
        (["--text", "a cat"], 2, ["422", "builtin:latest takes points"]),
        (["--image", str(SCRIPT)], 2, ["422", "not an image"]),
        (["--image", "missing.jpg"], 1, ["missing.jpg", "No such file"]),
        (["--point", "a,b"], 1, ["a,b"]),
    ],
)
def test_mistakes_are_told(
    server: RunningServer, tmp_path: Path, arguments: list[str], code: int, parts: list[str]
) -> None:
    """Each mistake gets a sentence with the status, and an exit code of its kind; no traceback, no files."""
    ended = run_example(*arguments, env={"OSAMD_URL": server.url, "API_KEY": KEY}, cwd=tmp_path)

    assert (ended.returncode, ended.stdout) == (code, "")
    for part in parts:
        assert part in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_server_without_key_is_told(tmp_path: Path) -> None:
    """500: the server's own words name its variable."""
    with run_server(cache=tmp_path, env={"OSAMD_PRELOAD": "none"}) as running:
        ended = run_example(env={"OSAMD_URL": running.url, "API_KEY": KEY}, cwd=tmp_path)

    assert ended.returncode == 6
    assert "500" in ended.stderr
    assert "API_KEY" in ended.stderr


def test_no_connection_is_told(tmp_path: Path) -> None:
    """Without a server it says so, after the patience that was asked for."""
    env = {"OSAMD_URL": f"http://127.0.0.1:{free_port()}", "API_KEY": KEY}
    ended = run_example("--patience", "0", env=env, cwd=tmp_path)

    assert (ended.returncode, ended.stdout) == (7, "")
    assert "No connection" in ended.stderr
    assert "Traceback" not in ended.stderr
