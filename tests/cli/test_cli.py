"""The command line as a process: data on stdout, messages on stderr, exit codes from the error tree."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import BOX, CLICK, click
from pictures import inside_of, png_pixels
from PIL import Image
from serving import KEY, clean_environment

from osamd import __version__

ROOT = Path(__file__).resolve().parents[2]
PHOTO = str(ROOT / "examples" / "cat.jpg")
OSAMD = str(Path(sys.executable).with_name("osamd"))
POINT = f"{CLICK[0]},{CLICK[1]}"
EFFICIENTSAM_ENCODER = "4cacbb23c6903b1acf87f1d77ed806b840800c5fcd4ac8f650cbffed474b8896"
HEAVY = ("numpy", "cv2", "PIL", "onnxruntime", "fastapi", "pydantic", "starlette", "uvicorn", "httpx2", "asyncio")

Ended = subprocess.CompletedProcess[bytes]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An empty cache."""
    return {"OSAMD_CACHE": str(tmp_path / "cache")}


def osamd(*arguments: str, env: Mapping[str, str]) -> Ended:
    """Run a command to its end."""
    return subprocess.run(
        [OSAMD, *arguments], env=clean_environment(env), capture_output=True, timeout=120, check=False
    )


def overlay_size(data: bytes, tmp_path: Path) -> tuple[tuple[int, int], str]:
    """Size and mode of a colour PNG."""
    path = tmp_path / "overlay-read.png"
    path.write_bytes(data)
    with Image.open(path, formats=["PNG"]) as picture:
        return picture.size, picture.mode


# --- osamd run ------------------------------------------------------------------------------------------------------


def test_run_writes_the_mask_to_stdout(environment: dict[str, str], clicked: dict[str, Any]) -> None:
    """A click gives the server's mask as PNG on stdout, and nothing else there."""
    ended = osamd("run", "--image", PHOTO, "--point", POINT, env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert np.array_equal(inside_of(clicked["annotations"][0]), png_pixels(ended.stdout) == 255)


def test_run_writes_json_to_stdout(environment: dict[str, str], clicked: dict[str, Any]) -> None:
    """``--json`` gives the reply of the wire, and one line of it."""
    ended = osamd("run", "builtin", "--image", PHOTO, "--point", POINT, "--json", env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    reply = json.loads(ended.stdout)
    assert set(clicked) == set(reply)
    assert clicked["annotations"][0]["mask"] == reply["annotations"][0]["mask"]
    assert ended.stdout.count(b"\n") == 1


def test_run_writes_files_when_told(environment: dict[str, str], tmp_path: Path) -> None:
    """``-o`` writes the PNG to a file and says so on stderr; with ``--json`` the reply still goes to stdout."""
    target = tmp_path / "mask.png"
    quiet = osamd("run", "--image", PHOTO, "--box", ",".join(map(str, BOX)), "-o", str(target), env=environment)
    mask = png_pixels(target.read_bytes())
    both = osamd("run", "--image", PHOTO, "--point", POINT, "--json", "-o", str(target), env=environment)

    assert (quiet.returncode, quiet.stdout) == (0, b"")
    assert str(target).encode() in quiet.stderr
    assert mask.shape == (300, 451)
    assert both.returncode == 0
    assert np.array_equal(inside_of(json.loads(both.stdout)["annotations"][0]), png_pixels(target.read_bytes()) == 255)


def test_run_draws_an_overlay(environment: dict[str, str], tmp_path: Path) -> None:
    """``--overlay`` gives the photo with the mask over it, on stdout and in a file."""
    target = tmp_path / "overlay.png"
    piped = osamd("run", "--image", PHOTO, "--point", POINT, "--overlay", env=environment)
    written = osamd("run", "--image", PHOTO, "--point", POINT, "--overlay", "-o", str(target), env=environment)

    assert (piped.returncode, written.returncode) == (0, 0)
    assert overlay_size(piped.stdout, tmp_path) == ((451, 300), "RGB")
    assert piped.stdout == target.read_bytes()


def test_run_takes_osams_spelling(environment: dict[str, str], tmp_path: Path) -> None:
    """``osamd run builtin --image x.jpg --prompt JSON > out.png`` gives a picture, as osam does: the overlay."""
    prompt = json.dumps({"points": [CLICK], "point_labels": [1]})
    ended = osamd("run", "builtin", "--image", PHOTO, "--prompt", prompt, env=environment)
    drawn = osamd("run", "--image", PHOTO, "--point", POINT, "--overlay", env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert overlay_size(ended.stdout, tmp_path) == ((451, 300), "RGB")
    assert drawn.stdout == ended.stdout


def test_run_tells_a_missing_model(environment: dict[str, str]) -> None:
    """Osam's own line, for a model that is not here and may not be pulled: its blob on stderr, exit code 5."""
    prompt = json.dumps(click(CLICK))
    never = environment | {"OSAMD_PULL": "never"}
    ended = osamd("run", "efficientsam", "--image", PHOTO, "--prompt", prompt, env=never)

    assert (ended.returncode, ended.stdout) == (5, b"")
    assert ended.stderr.startswith(b"osamd: ")
    assert f"sha256-{EFFICIENTSAM_ENCODER}".encode() in ended.stderr
    assert b"efficientsam:latest" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_run_takes_every_kind_of_prompt(environment: dict[str, str]) -> None:
    """Several points, background points and a box together are the prompt of the wire."""
    flags = ["--point", POINT, "--point", "315,130", "--background", "100,250", "--box", "20,10,440,295", "--multimask"]
    by_flags = osamd("run", "--image", PHOTO, *flags, env=environment)
    prompt = {
        "points": [CLICK, [315, 130], [100, 250]],
        "point_labels": [1, 1, 0],
        "box": [20, 10, 440, 295],
    }
    by_prompt = osamd("run", "--image", PHOTO, "--prompt", json.dumps(prompt), "--json", env=environment)

    assert by_flags.returncode == 0, by_flags.stderr
    expected = inside_of(json.loads(by_prompt.stdout)["annotations"][0])
    assert np.array_equal(expected, png_pixels(by_flags.stdout) == 255)


def test_run_that_finds_nothing_says_so(environment: dict[str, str]) -> None:
    """Nothing found is a black mask and a remark, not a failure."""
    ended = osamd("run", "--image", PHOTO, "--background", "20,20", env=environment)

    assert ended.returncode == 0
    assert not png_pixels(ended.stdout).any()
    assert b"nothing was found" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope", "--image", PHOTO], "nope"),
        (["--image", PHOTO, "--point", "1"], "point: 2 numbers"),
        (["--image", PHOTO, "--point", "9000,1"], "prompt.points[0]: point (9000, 1) lies outside"),
        (["--image", PHOTO, "--box", "9,9,1,1"], "turned inside out"),
        (["--image", PHOTO, "--prompt", "{"], "prompt: not JSON"),
        (["--image", PHOTO, "--prompt", '{"points": [[1, 1]]}'], "prompt.point_labels: there are 1 points"),
        (["--image", PHOTO, "--prompt", "{}", "--point", "1,1"], "either prompt or point"),
        (["--image", PHOTO, "--text", "a cat"], "builtin:latest takes points"),
        (["--image", __file__], "not an image"),
        (["--image", "missing.jpg"], "missing.jpg: No such file"),
        (["--image", PHOTO, "-o", "no-such-folder/mask.png"], "no-such-folder/mask.png: No such file"),
    ],
)
def test_run_tells_mistakes(environment: dict[str, str], arguments: list[str], part: str) -> None:
    """A mistake of the caller gets one line on stderr, nothing on stdout, and exit code 2."""
    ended = osamd("run", *arguments, env=environment)

    assert (ended.returncode, ended.stdout) == (2, b""), ended.stderr
    message = ended.stderr.decode()
    assert part in message
    assert message.startswith("osamd: ")
    assert message.count("\n") == 1


def test_run_does_not_write_pictures_to_a_terminal(environment: dict[str, str]) -> None:
    """With a terminal for stdout a PNG is refused, before any work."""
    controller, terminal = pty.openpty()
    try:
        ended = subprocess.run(
            [OSAMD, "run", "--image", PHOTO],
            env=clean_environment(environment),
            stdout=terminal,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(controller)

    assert ended.returncode == 2
    assert b"terminal" in ended.stderr


@pytest.mark.parametrize("arguments", [["run", "--image", PHOTO, "--json"], ["run", "--image", PHOTO], ["doctor"]])
def test_reader_that_leaves_is_no_error(environment: dict[str, str], arguments: list[str]) -> None:
    """A closed pipe, as ``| head`` leaves it, is nothing to complain about."""
    buffered = {name: value for name, value in clean_environment(environment).items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [OSAMD, *arguments], env=buffered, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)

    assert (ended.returncode, ended.stderr) == (0, b"")


def test_bad_setting_is_told(environment: dict[str, str]) -> None:
    """A setting that cannot be is named, with its own exit code."""
    ended = osamd("run", "--image", PHOTO, env=environment | {"OSAMD_DEVICE": "tpu"})

    assert (ended.returncode, ended.stdout) == (6, b"")
    assert b"OSAMD_DEVICE" in ended.stderr


# --- osamd doctor ---------------------------------------------------------------------------------------------------


def test_doctor_says_what_is_here(environment: dict[str, str]) -> None:
    """Versions, providers, device, cache folder, whether the key is set, and whether the built-in model loads."""
    ended = osamd("doctor", env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    report = ended.stdout.decode()
    lines = {line.split()[1]: line for line in report.splitlines()}
    assert __version__ in lines["osamd"]
    assert "CPUExecutionProvider" in lines["providers"]
    assert "threads" in lines["device"]
    assert environment["OSAMD_CACHE"] in lines["cache"]
    assert "not set" in lines["API_KEY"]
    assert "loads" in lines["builtin:latest"]
    assert {"python", "onnxruntime", "numpy", "fastapi"} <= set(lines)
    assert all(line.startswith("ok ") for line in report.splitlines())


def test_doctor_shows_no_key(environment: dict[str, str]) -> None:
    """The key is said to be set, and not shown."""
    ended = osamd("doctor", env=environment | {"API_KEY": KEY})

    assert ended.returncode == 0
    assert [line.split()[-1] for line in ended.stdout.decode().splitlines() if "API_KEY" in line] == ["set"]
    assert KEY.encode() not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"OSAM_ONNX_PROVIDERS": "NoSuchExecutionProvider"}, "NoSuchExecutionProvider"),
        ({"PORT": "many"}, "PORT"),
    ],
)
def test_doctor_exits_with_1_for_what_is_wrong(environment: dict[str, str], extra: dict[str, str], part: str) -> None:
    """What keeps osamd from working is marked, and the exit code says so."""
    ended = osamd("doctor", env=environment | extra)

    assert ended.returncode == 1
    wrong = [line for line in ended.stdout.decode().splitlines() if line.startswith("!! ")]
    assert wrong
    assert any(part in line for line in wrong)


# --- osamd itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--help"], ["serve", "run", "doctor"]),
        (["serve", "--help"], ["--host", "--port", "--env-file", "--preload"]),
        (
            ["run", "--help"],
            ["--image", "--point", "--background", "--box", "--text", "--prompt", "--json", "--overlay"],
        ),
        (["doctor", "--help"], ["exits 1"]),
        (["--version"], [__version__]),
    ],
)
def test_help_is_on_stdout(arguments: list[str], parts: list[str]) -> None:
    """Help and version are data."""
    ended = osamd(*arguments, env={})

    assert (ended.returncode, ended.stderr) == (0, b"")
    for part in parts:
        assert part in ended.stdout.decode()


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["serve", "--port", "many"]])
def test_unknown_usage_exits_with_2(arguments: list[str]) -> None:
    """A command line that cannot be is explained on stderr."""
    ended = osamd(*arguments, env={})

    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"usage: osamd" in ended.stderr


def test_help_loads_nothing_heavy() -> None:
    """``osamd --help`` imports none of the libraries that the commands need."""
    script = (
        "import sys\nfrom osamd.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('loaded', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment({}), capture_output=True, text=True, check=True
    )

    assert "usage: osamd" in ended.stdout
    assert ended.stdout.endswith("loaded []\n")


def test_module_is_the_command() -> None:
    """``python -m osamd`` is ``osamd``."""
    ended = subprocess.run(
        [sys.executable, "-m", "osamd", "--version"],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=True,
    )

    assert ended.stdout == f"osamd {__version__}\n"
