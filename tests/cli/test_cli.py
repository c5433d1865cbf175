"""The command line: data on stdout, messages on stderr, exit codes from the error tree."""

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import BOX, CLICK, click, only_mask
from commands import Osamd
from kept_graphs import lend_graphs
from pictures import DISC_X, DISC_Y, HEIGHT, WIDTH, disc_mask, disc_picture, inside_of, iou, png_pixels
from PIL import Image
from serving import KEY, clean_environment
from tiffs import tiff
from waiting import WAIT_S

from osamd import __version__
from osamd.pixels import decoder

ROOT = Path(__file__).resolve().parents[2]
PHOTO = str(ROOT / "examples" / "cat.jpg")
OSAMD = str(Path(sys.executable).with_name("osamd"))
POINT = f"{CLICK[0]},{CLICK[1]}"
EFFICIENTSAM_ENCODER = "4cacbb23c6903b1acf87f1d77ed806b840800c5fcd4ac8f650cbffed474b8896"
HEAVY = ("numpy", "cv2", "PIL", "onnxruntime", "fastapi", "pydantic", "starlette", "uvicorn", "httpx2", "asyncio")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A cache without models."""
    lend_graphs(tmp_path / "cache")
    return {"OSAMD_CACHE": str(tmp_path / "cache")}


def overlay_size(data: bytes, tmp_path: Path) -> tuple[tuple[int, int], str]:
    """Size and mode of a colour PNG."""
    path = tmp_path / "overlay-read.png"
    path.write_bytes(data)
    with Image.open(path, formats=["PNG"]) as picture:
        return picture.size, picture.mode


# --- osamd run ------------------------------------------------------------------------------------------------------


def test_run_writes_the_mask_to_stdout(osamd: Osamd, environment: dict[str, str], clicked: dict[str, Any]) -> None:
    """A click gives the server's mask as PNG on stdout, and nothing else there."""
    ended = osamd("run", "--image", PHOTO, "--point", POINT, env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert np.array_equal(inside_of(clicked["annotations"][0]), png_pixels(ended.stdout) == 255)


def test_run_writes_json_to_stdout(osamd: Osamd, environment: dict[str, str], clicked: dict[str, Any]) -> None:
    """``--json`` gives the reply of the wire, and one line of it."""
    ended = osamd("run", "builtin", "--image", PHOTO, "--point", POINT, "--json", env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    reply = json.loads(ended.stdout)
    assert set(clicked) == set(reply)
    assert clicked["annotations"][0]["mask"] == reply["annotations"][0]["mask"]
    assert ended.stdout.count(b"\n") == 1


def test_run_writes_files_when_told(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
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


def test_run_draws_an_overlay(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
    """``--overlay`` gives the photo with the mask over it, on stdout and in a file."""
    target = tmp_path / "overlay.png"
    piped = osamd("run", "--image", PHOTO, "--point", POINT, "--overlay", env=environment)
    written = osamd("run", "--image", PHOTO, "--point", POINT, "--overlay", "-o", str(target), env=environment)

    assert (piped.returncode, written.returncode) == (0, 0)
    assert overlay_size(piped.stdout, tmp_path) == ((451, 300), "RGB")
    assert piped.stdout == target.read_bytes()


def test_run_takes_osams_spelling(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
    """``osamd run builtin --image x.jpg --prompt JSON > out.png`` gives a picture, as osam does: the overlay."""
    prompt = json.dumps({"points": [CLICK], "point_labels": [1]})
    ended = osamd("run", "builtin", "--image", PHOTO, "--prompt", prompt, env=environment)
    drawn = osamd("run", "--image", PHOTO, "--point", POINT, "--overlay", env=environment)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert overlay_size(ended.stdout, tmp_path) == ((451, 300), "RGB")
    assert drawn.stdout == ended.stdout


def test_run_names_the_missing_blob(osamd: Osamd, environment: dict[str, str]) -> None:
    """Osam's own line, for a model that is not here and may not be pulled: its blob on stderr, exit code 5."""
    prompt = json.dumps(click(CLICK))
    never = environment | {"OSAMD_PULL": "never"}
    ended = osamd("run", "efficientsam", "--image", PHOTO, "--prompt", prompt, env=never)

    assert (ended.returncode, ended.stdout) == (5, b"")
    assert ended.stderr.startswith(b"osamd: ")
    assert f"sha256-{EFFICIENTSAM_ENCODER}".encode() in ended.stderr
    assert b"efficientsam:latest" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_run_takes_every_kind_of_prompt(osamd: Osamd, environment: dict[str, str]) -> None:
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


def test_run_that_finds_nothing_says_so(osamd: Osamd, environment: dict[str, str]) -> None:
    """Nothing found is a black mask and a remark, not a failure."""
    ended = osamd("run", "--image", PHOTO, "--background", "20,20", env=environment)

    assert ended.returncode == 0
    assert not png_pixels(ended.stdout).any()
    assert b"nothing found" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope", "--image", PHOTO], "nope"),
        (["--image", PHOTO, "--point", "1"], "point: expected 2 numbers"),
        (["--image", PHOTO, "--point", "9000,1"], "prompt.points[0]: point (9000, 1) is outside"),
        (["--image", PHOTO, "--box", "9,9,9000,1"], "prompt.box: box (9, 1, 9000, 9) is outside"),
        (["yoloworld", "--image", PHOTO, "--text", "cat"], "model: yoloworld:latest returns boxes but no masks"),
        (["--image", PHOTO, "--box", "9,9,1"], "box: expected 4 numbers"),
        (["--image", PHOTO, "--prompt", "{"], "prompt: not JSON"),
        (
            ["--image", PHOTO, "--prompt", '{"points": [[1, 1]]}'],
            "prompt.point_labels: expected one label per point, got 1 point",
        ),
        (["--image", PHOTO, "--prompt", "{}", "--point", "1,1"], "either prompt or point"),
        (["--image", PHOTO, "--text", "a cat"], "builtin:latest takes points"),
        (["--image", __file__], "not an image"),
        (["--image", "missing.jpg"], "missing.jpg: No such file"),
        (["--image", PHOTO, "-o", "no-such-folder/mask.png"], "no-such-folder/mask.png: No such file"),
    ],
)
def test_run_explains_mistakes(osamd: Osamd, environment: dict[str, str], arguments: list[str], part: str) -> None:
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
            timeout=WAIT_S,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(controller)

    assert ended.returncode == 2
    assert b"terminal" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["run", "--image", PHOTO, "--json"], ["run", "--image", PHOTO], ["doctor"], ["--help"]]
)
def test_closed_pipe_exits_quietly(environment: dict[str, str], arguments: list[str]) -> None:
    """A closed pipe, as ``| head`` leaves it, is nothing to complain about."""
    buffered = {name: value for name, value in clean_environment(environment).items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [OSAMD, *arguments], env=buffered, stdout=writing, stderr=subprocess.PIPE, timeout=WAIT_S, check=False
        )
    finally:
        os.close(writing)

    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "point"),
    [
        (["--point", "-5,3"], "(-5, 3)"),
        (["--point=-5,3"], "(-5, 3)"),
        (["--background", "-.5,3"], "(-0.5, 3)"),
        (["--point", "10,10", "--point", "-1e2,3"], "(-100, 3)"),
        (["--box", "-5,3,10,20"], "(-5, 3, 10, 20)"),
    ],
)
def test_negative_coordinates_are_numbers(
    osamd: Osamd, environment: dict[str, str], arguments: list[str], point: str
) -> None:
    """They reach the check of the prompt instead of being taken for flags."""
    ended = osamd("run", "--image", PHOTO, *arguments, env=environment)

    assert (2, "") == (ended.returncode, ended.out)
    assert f"{point} is outside the image, which is 451 x 300 pixels" in ended.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--box", ""], "box: expected 4 numbers"),
        (["--point", ""], "point: expected 2 numbers"),
        (["--prompt", ""], "prompt: not JSON"),
        (["--text", ""], "prompt.texts[0]"),
        ([""], "unknown model ''"),
        (["-o", ""], "Is a directory"),
    ],
)
def test_empty_flags_are_not_dropped(
    osamd: Osamd, environment: dict[str, str], arguments: list[str], part: str
) -> None:
    """They would become the click in the middle, or another model."""
    ended = osamd("run", "--image", PHOTO, *arguments, env=environment)

    assert (2, "") == (ended.returncode, ended.out)
    assert part in ended.err


@pytest.mark.parametrize(
    "name", ["mask.jpg", "mask.JPEG", "mask.webp", "mask.tiff", "mask.svg", "mask.json", "mask.txt"]
)
def test_output_named_like_another_format_is_refused(
    osamd: Osamd, environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    """A PNG is not written to a file with another suffix; this is checked before any work."""
    ended = osamd("run", "nope", "--image", "missing", "-o", str(tmp_path / name), env=environment)

    assert 2 == ended.returncode
    assert f"{name}: the output is image/png; expected a name that ends in .png" in ended.err
    assert not (tmp_path / name).exists()


def test_output_may_have_any_other_suffix(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
    """Only a name that promises another format is refused; .PNG is PNG."""
    for name in ("mask", "mask.PNG", "mask.part-1"):
        assert 0 == osamd("run", "--image", PHOTO, "-o", str(tmp_path / name), env=environment).returncode
        assert png_pixels((tmp_path / name).read_bytes()).any()


def test_dash_is_standard_input_and_output(osamd: Osamd, environment: dict[str, str]) -> None:
    """``--image - -o -`` is a filter, and nothing but the PNG is on stdout."""
    plain = osamd("run", "--image", PHOTO, "--point", POINT, env=environment)
    photo = Path(PHOTO).read_bytes()
    ended = osamd("run", "--image", "-", "--point", POINT, "-o", "-", env=environment, stdin=photo)

    assert (0, "") == (ended.returncode, ended.err)
    assert plain.stdout == ended.stdout
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--image", "-"], "not an image"),
        (["--image", PHOTO, "--json", "-o", "-"], "--json and -o - both write to standard output"),
        (["--image", "https://example.com/cat.jpg"], "expected a file or -, not a URL"),
        (["--image", "data:image/png;base64,AAAA"], "No such file"),
        (["--image", "a\0b"], "null byte"),
        (["--image", "."], ".: Is a directory"),
        (["--image", "x" * 300], "File name too long"),
        (["--image", PHOTO, "-o", "."], ".: Is a directory"),
        (["--image", PHOTO, "-o", "missing/mask.png"], "missing/mask.png: No such file"),
        (["--image", PHOTO, "-o", f"{PHOTO}/mask.png"], "mask.png: Not a directory"),
    ],
    ids=lambda value: str(value)[:60].replace("\0", "0"),
)
def test_bad_paths_are_reported(osamd: Osamd, environment: dict[str, str], arguments: list[str], part: str) -> None:
    """In one line, with exit code 2 and nothing on stdout."""
    ended = osamd("run", *arguments, env=environment)

    assert (2, "") == (ended.returncode, ended.out)
    assert part in ended.err
    assert 1 == ended.err.count("\n")


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["run", "--image", PHOTO]])
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_exit_quietly(environment: dict[str, str], arguments: list[str], redirection: str) -> None:
    """What a shell closes is not written to, and nothing is said about it."""
    command = f"exec {shlex.join([OSAMD, *arguments])} {redirection}"
    ended = subprocess.run(
        ["sh", "-c", command], env=clean_environment(environment), capture_output=True, timeout=WAIT_S, check=False
    )

    assert (0, b"") == (ended.returncode, ended.stderr)
    assert (">&-" in redirection.split()) == (ended.stdout == b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this disk that is always full")
@pytest.mark.parametrize("arguments", [["list"], ["run", "--image", PHOTO]])
def test_full_disk_is_reported(environment: dict[str, str], arguments: list[str]) -> None:
    """In one line, and the exit code says that the output is not whole."""
    buffered = {name: value for name, value in clean_environment(environment).items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [OSAMD, *arguments], env=buffered, stdout=full, stderr=subprocess.PIPE, timeout=WAIT_S, check=False
        )

    assert (1, b"osamd: standard output: No space left on device\n") == (ended.returncode, ended.stderr)


def test_bad_setting_is_named(osamd: Osamd, environment: dict[str, str]) -> None:
    """A setting that cannot be is named, with its own exit code."""
    ended = osamd("run", "--image", PHOTO, env=environment | {"OSAMD_DEVICE": "tpu"})

    assert (ended.returncode, ended.stdout) == (6, b"")
    assert b"OSAMD_DEVICE" in ended.stderr


# --- osamd doctor ---------------------------------------------------------------------------------------------------


def test_doctor_says_what_is_here(osamd: Osamd, environment: dict[str, str]) -> None:
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
    assert {"python", "onnxruntime", "numpy", "starlette"} <= set(lines)
    assert all(line.startswith("ok ") for line in report.splitlines())


def test_doctor_shows_no_key(osamd: Osamd, environment: dict[str, str]) -> None:
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
def test_doctor_exits_with_1_for_what_is_wrong(
    osamd: Osamd, environment: dict[str, str], extra: dict[str, str], part: str
) -> None:
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
        (["doctor", "--help"], ["exits with 1"]),
        (["--version"], [__version__]),
    ],
)
def test_help_is_on_stdout(osamd: Osamd, arguments: list[str], parts: list[str]) -> None:
    """Help and version are data."""
    ended = osamd(*arguments, env={})

    assert (ended.returncode, ended.stderr) == (0, b"")
    for part in parts:
        assert part in ended.stdout.decode()


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["serve", "--port", "many"]])
def test_unknown_usage_exits_with_2(osamd: Osamd, arguments: list[str]) -> None:
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


def test_run_says_what_was_done_to_the_samples(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
    """Ten bits of 16, turned: the click is taken in the upright picture, and the scale is on standard error."""
    samples = np.asarray(disc_picture().convert("L")).astype(np.uint16) * 4
    path = tmp_path / "deep.tiff"
    path.write_bytes(tiff(samples[::-1].T, orientation=8))

    ended = osamd("run", "--image", str(path), "--point", f"{DISC_X},{DISC_Y}", "--json", env=environment)

    assert "osamd: samples 0 to 1023 scaled to 0 to 255" in ended.stderr.decode()
    assert (WIDTH, HEIGHT) == (json.loads(ended.stdout)["width"], json.loads(ended.stdout)["height"])
    assert iou(disc_mask(), only_mask(json.loads(ended.stdout))) > 0.9


def test_run_cleans_masks(osamd: Osamd, environment: dict[str, str]) -> None:
    """The flags are the wire's fields, and reach the JSON and the PNG alike."""
    flags = ["--smooth", "4", "--fill-holes", "50", "--drop-islands", "20"]
    polygons = ["--mask-format", "polygon", "--simplify", "3", "--json"]

    plain, clean = (
        osamd("run", "--image", PHOTO, "--point", POINT, *given, env=environment).stdout for given in ([], flags)
    )
    simple = osamd("run", "--image", PHOTO, "--point", POINT, *flags, *polygons, env=environment)
    wrong = osamd("run", "--image", PHOTO, "--point", POINT, "--simplify", "3", env=environment)

    assert (png_pixels(plain) != png_pixels(clean)).any()
    assert 3 <= len(json.loads(simple.stdout)["annotations"][0]["mask"][0]["exterior"]) < 200
    assert 2 == wrong.returncode
    assert b'simplify needs mask_format "polygon"' in wrong.stderr


def test_run_cuts_the_object_out(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
    """As the playground does: as large as the bounding box, transparent around the object."""
    target = tmp_path / "cat.png"

    ended = osamd("run", "--image", PHOTO, "--point", POINT, "--cutout", "--json", "-o", str(target), env=environment)
    both = osamd("run", "--image", PHOTO, "--point", POINT, "--cutout", "--overlay", env=environment)

    box = json.loads(ended.stdout)["annotations"][0]["bounding_box"]
    with Image.open(target) as cut, Image.open(PHOTO) as photo:
        assert ("RGBA", (box["xmax"] - box["xmin"] + 1, box["ymax"] - box["ymin"] + 1)) == (cut.mode, cut.size)
        x, y = CLICK[0] - box["xmin"], CLICK[1] - box["ymin"]
        assert (*np.asarray(photo)[CLICK[1], CLICK[0]], 255) == cut.getpixel((x, y))
    assert 2 == both.returncode
    assert b"--cutout and --overlay" in both.stderr


def test_run_finds_everything(osamd: Osamd, environment: dict[str, str], tmp_path: Path) -> None:
    """JSON with run lengths, a map of labels, and an overlay; why it ended early is on standard error."""
    small = '{"everything": {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}}'
    path = tmp_path / "labels.png"
    arguments = ("run", "--image", PHOTO, "--prompt", small, "--json", "--mask-format", "rle", "-o", str(path))
    done = osamd(*arguments, env=environment)
    reply = json.loads(done.stdout)
    assert reply["everything"]["masks"] == len(reply["annotations"]) > 1
    assert "stopped" not in done.err
    with Image.open(path) as labels:
        assert labels.mode == "P"
        assert len(np.unique(np.asarray(labels))) > 2

    limited = small.replace("0.3}", '0.3, "max_masks": 1}')
    done = osamd("run", "--image", PHOTO, "--prompt", limited, "--overlay", "-o", str(path), env=environment)
    assert "osamd: stopped by max_masks; masks found: 1\n" in done.err
    assert overlay_size(path.read_bytes(), tmp_path)[1] == "RGB"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["sam3", "--everything"], "takes points"),
        (["--everything", "--point", "3,4"], "everything stands alone"),
        (["--prompt", '{"everything": {"max_masks": 300}}'], "at most 255 labels"),
    ],
)
def test_run_refuses_what_does_not_go_with_everything(
    osamd: Osamd, environment: dict[str, str], arguments: list[str], part: str
) -> None:
    """Before anything is pulled."""
    done = osamd("run", *arguments, "--image", PHOTO, "-o", "-", env=environment)
    assert done.returncode != 0
    assert part in done.err


def test_heic_that_crashes_the_decoder_is_an_error(
    osamd: Osamd, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder is in another process, here one that crashes at once."""
    monkeypatch.setattr(decoder, "PROGRAM", "import os; os.abort()")

    ended = osamd("run", "--image", "-", "--json", env=environment, stdin=b"\0\0\0\x18ftypheic\0\0\0\0heicmif1")

    assert (2, "") == (ended.returncode, ended.out)
    assert "crashed the decoder" in ended.err


def test_what_a_terminal_cannot_show_is_escaped(environment: dict[str, str], tmp_path: Path) -> None:
    """A Latin-1 locale has no Chinese characters."""
    rows = "".join(
        f'[model.blobs.{role}]\nurl = "https://example.org/{role}"\nsha256 = "{digit * 64}"\n'
        for role, digit in (("encoder", "0"), ("decoder", "1"))
    )
    catalog = tmp_path / "models.toml"
    catalog.write_text(f'[[model]]\nname = "mine"\nfamily = "sam"\nlicense = "\u732b"\n{rows}', "utf-8")
    shown = subprocess.run(
        [sys.executable, "-m", "osamd", "show", "mine"],
        env=environment | {"PYTHONIOENCODING": "latin-1", "OSAMD_CATALOG": str(catalog)},
        capture_output=True,
        check=False,
    )
    assert (0, True) == (shown.returncode, b"\\u732b" in shown.stdout), shown.stderr
