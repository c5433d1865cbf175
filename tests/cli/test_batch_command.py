"""``osamd batch`` as users run it: here, against a server, interrupted, and with arguments that make no sense."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from commands import Osamd
from data_sets import tree, write_boxes, write_photo
from pictures import disc_box, disc_picture
from puppet import GOOD, Told, problem, puppet
from serving import KEY, RunningServer, clean_environment, free_port

from osamd.cli.batch import _tell_how_to_continue

X1, Y1, X2, Y2 = disc_box()


def write_discs(folder: Path, count: int = 3) -> Path:
    """Photos of a disc, and COCO JSON with its box beside the folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture = disc_picture()
        picture.putpixel((number, 0), (255, 0, 0))
        picture.save(folder / f"disc{number}.png")
    boxes = write_boxes(folder.parent / "boxes.json", folder)
    content = json.loads(boxes.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [X1, Y1, X2 - X1 + 1, Y2 - Y1 + 1]
    boxes.write_text(json.dumps(content))
    return folder


def opened_by_reader(pipe: Path, process: "subprocess.Popen[str]") -> IO[bytes]:
    """The writing end of a pipe, once the process reads it; fails if the process ends before."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            file = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(file, True)
            return os.fdopen(file, "wb")
        time.sleep(0.02)
    raise AssertionError(f"it ended with {process.returncode}")


def test_a_server_gives_the_same_bytes_as_this_process(osamd: Osamd, server: RunningServer, tmp_path: Path) -> None:
    """Boxes become masks in every format, here and with ``--url`` and a key; a bad photo makes the exit code 1."""
    photos = write_discs(tmp_path / "photos")
    arguments = ("batch", str(photos), "--boxes-from", str(tmp_path / "boxes.json"), "--review")
    formats = ("--format", "coco,yolo", "--format", "labelme,png,parquet")
    env = {"OSAMD_CACHE": str(tmp_path / "cache"), "OSAMD_API_KEY": KEY, "OSAMD_THREADS": "1"}

    here = osamd(*arguments, *formats, "--out", str(tmp_path / "here"), env=env)
    there = osamd(*arguments, *formats, "--out", str(tmp_path / "there"), "--url", server.url, env=env)

    assert (0, 0) == (here.returncode, there.returncode), (here.err, there.err)
    assert "3 photos, 0 failed" in here.err
    assert b"" == here.stdout
    found = json.loads((tmp_path / "here" / "annotations.coco.json").read_text())
    assert [9, 4] * 3 == [one["category_id"] for one in found["annotations"]]
    outputs = [
        {name: content for name, content in tree(tmp_path / place).items() if not name.startswith(".osamd")}
        for place in ("here", "there")
    ]
    assert outputs[0] == outputs[1]

    (photos / "broken.jpg").write_text("no image")
    again = osamd(*arguments, "--out", str(tmp_path / "again"), env=env)
    assert (1, True) == (again.returncode, "4 photos, 1 failed" in again.err)
    assert "broken.jpg,invalid_image" in (tmp_path / "again" / "failures.csv").read_text()


def test_clicks_find_the_disc(osamd: Osamd, tmp_path: Path) -> None:
    """With the built-in model."""
    photos = write_discs(tmp_path / "photos", 1)
    (tmp_path / "clicks.csv").write_text("image,x,y,category\ndisc0.png,70,50,disc\n")
    env = {"OSAMD_CACHE": str(tmp_path / "cache")}
    out, clicks = tmp_path / "out", str(tmp_path / "clicks.csv")
    ended = osamd("batch", str(photos), "--out", str(out), "--points-from", clicks, env=env)
    assert 0 == ended.returncode, ended.err
    assert "1 photo, 0 failed" in ended.err
    (found,) = json.loads((out / "annotations.coco.json").read_text())["annotations"]
    assert abs(found["area"] - 3200) < 320


def test_an_interrupted_run_says_how_to_continue(tmp_path: Path) -> None:
    """Ctrl-C during the second photo, which comes from a pipe: it is finished, and the run continues behind it."""
    photos = write_discs(tmp_path / "photos")
    pipe = tmp_path / "photos" / "disc1.png"
    content = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    # A pattern takes whatever matches; a folder skips what is no file.
    command = [sys.executable, "-m", "osamd", "batch", f"{photos}/*.png", "--boxes-from", str(tmp_path / "boxes.json")]
    command += ["--out", str(tmp_path / "out"), "--shard-size", "1"]
    env = clean_environment({"OSAMD_CACHE": str(tmp_path / "cache")})

    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        with opened_by_reader(pipe, process) as writer:
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert "" == process.stderr.readline().strip()
            assert "finishing the photos in hand" in process.stderr.readline()
            writer.write(content)
        told = process.stderr.read()
    assert 130 == process.returncode
    assert "of 3 photos done" in told
    assert f"to continue where it stopped: osamd batch '{photos}/*.png'" in told
    assert not (tmp_path / "out" / "annotations.coco.json").exists()

    pipe.unlink()
    pipe.write_bytes(content)
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (0, True) == (ended.returncode, "3 photos, 0 failed" in ended.stderr), ended.stderr


SHOWN = Told(200, {"capabilities": ["points", "box", "masks"], "takes": "points, one box", "is_present": True})


@pytest.mark.parametrize(
    ("answer", "arguments", "code", "message"),
    [
        (None, ["--everything"], 7, "cannot reach"),
        (
            problem("access_denied", 403),
            ["--everything"],
            3,
            "told access_denied: set OSAMD_API_KEY to a key of http://",
        ),
        (problem("unknown_model", 404), ["--everything"], 2, "told unknown_model"),
        (Told(404, "not here"), ["--everything"], 7, "unexpected 404 from 127.0.0.1, not from osamd"),
        (Told(200, {}), ["--everything"], 7, "is this an osamd server?"),
        (SHOWN, ["--text", "cat"], 2, "builtin takes points, one box; this run asks for text"),
        (Told(200, {"capabilities": ["points"], "is_present": True}), ["--everything"], 2, "builtin returns no masks"),
        (Told(200, SHOWN.body | {"is_present": False}), ["--everything"], 2, "does not have builtin yet"),
    ],
    ids=[
        "no server",
        "wrong key",
        "unknown model",
        "another server",
        "another answer",
        "other prompts",
        "a detector",
        "may not pull",
    ],
)
def test_a_server_that_cannot_do_the_run_is_told_before_it(
    answer: Told | None, arguments: list[str], code: int, message: str, osamd: Osamd, tmp_path: Path
) -> None:
    """At once, whatever the patience with servers that restart; nothing is written or to be continued."""
    write_photo(tmp_path / "photos" / "a.png")
    out = tmp_path / "out"
    command = ("batch", str(tmp_path / "photos"), "--out", str(out), "--model", "builtin", *arguments)
    with contextlib.ExitStack() as stack:
        url = f"http://127.0.0.1:{free_port()}"
        if answer is not None:
            url = stack.enter_context(puppet(answer)).url
        ended = osamd(*command, "--url", url.replace("//", "//me:s3cr3t@"))
    assert (code, True) == (ended.returncode, message in ended.err), ended.err
    assert "to continue" not in ended.err
    assert "s3cr3t" not in ended.err
    assert not out.exists()


def test_a_server_that_starts_is_waited_for(osamd: Osamd, tmp_path: Path) -> None:
    """And the wait is told."""
    write_photo(tmp_path / "photos" / "a.png")
    arguments = ("batch", str(tmp_path / "photos"), "--everything", "--out", str(tmp_path / "out"))
    starting = Told(503, "the machine is starting", {"Content-Type": "text/plain"})
    with puppet(starting, starting, SHOWN, Told(200, GOOD)) as server:
        ended = osamd(*arguments, "--url", server.url)
        asked = list(server.paths)
    assert (0, True) == (ended.returncode, "the machine is starting; trying again for up to 60 s" in ended.err), (
        ended.err
    )
    assert ["/api/show"] * 3 + ["/api/generate"] == asked


def test_a_server_that_goes_away_stops_the_run(osamd: Osamd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the photos' fault: none of them fails, and the message says how to continue."""
    monkeypatch.setattr("osamd.cli.batch.PATIENCE_S", 0.0)
    write_photo(tmp_path / "photos" / "a.png")
    arguments = ("batch", str(tmp_path / "photos"), "--everything", "--out", str(tmp_path / "out"))
    with puppet(SHOWN, Told(502, "bad gateway")) as server:
        ended = osamd(*arguments, "--url", server.url)
    assert (7, True) == (ended.returncode, "to continue where it stopped" in ended.err), ended.err
    assert not (tmp_path / "out" / "failures.csv").exists()

    with puppet(SHOWN, Told(200, GOOD)) as server:
        ended = osamd(*arguments, "--url", server.url)
    assert 0 == ended.returncode, ended.err
    # Nothing is left to ask: the server may be gone.
    ended = osamd(*arguments, "--url", server.url, "--format", "labelme")
    assert (0, True) == (ended.returncode, (tmp_path / "out" / "labelme").is_dir()), ended.err


def test_a_run_that_could_not_begin_is_not_continued(osamd: Osamd, tmp_path: Path) -> None:
    """A file in the place of DIR: the message names it and promises nothing."""
    write_photo(tmp_path / "photos" / "a.png")
    (tmp_path / "out").write_text("a file")
    ended = osamd("batch", str(tmp_path / "photos"), "--everything", "--out", str(tmp_path / "out"))
    assert (1, False) == (ended.returncode, "to continue" in ended.err), ended.err
    assert str(tmp_path / "out") in ended.err


def test_a_photo_that_was_repaired_is_tried_again(osamd: Osamd, tmp_path: Path) -> None:
    """With ``--retry-failed``, with INPUT or without it; nothing happens where nothing failed or was begun."""
    photos, out = write_discs(tmp_path / "photos", 2), tmp_path / "out"
    broken = photos / "disc0.png"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    begin = ("batch", str(photos), "--boxes-from", str(tmp_path / "boxes.json"), "--out", str(out), "--retry-failed")
    failed = osamd(*begin)
    assert (1, True) == (failed.returncode, "1 failed" in failed.err), failed.err
    assert "--retry-failed tries them again" in failed.err
    again = osamd("batch", "--out", str(out), "--retry-failed")
    assert (1, True) == (again.returncode, "1 failed photo to try again" in again.err), again.err

    broken.write_bytes(content)
    ended = osamd(*begin)
    assert (0, False) == (ended.returncode, (out / "failures.csv").exists()), ended.err
    assert 4 == len(json.loads((out / "annotations.coco.json").read_text())["annotations"])
    last = osamd(*begin)
    assert (0, True) == (last.returncode, "0 failed photos to try again" in last.err), last.err


def test_a_retry_that_is_refused_leaves_the_run_finished(osamd: Osamd, tmp_path: Path) -> None:
    """The server is asked before anything is taken out of the results."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert 1 == osamd("batch", str(tmp_path / "photos"), "--everything", "--out", str(out)).returncode
    before = tree(out)
    refused = osamd("batch", "--out", str(out), "--retry-failed", "--url", f"http://127.0.0.1:{free_port()}")
    assert (7, before) == (refused.returncode, tree(out)), refused.err


def test_a_retry_of_another_model_leaves_the_run_finished(osamd: Osamd, tmp_path: Path) -> None:
    """Its photos cannot be segmented again as they were."""
    photos, out = write_discs(tmp_path / "photos", 1), tmp_path / "out"
    (photos / "disc0.png").write_bytes(b"")
    boxes = str(tmp_path / "boxes.json")
    assert 1 == osamd("batch", str(photos), "--boxes-from", boxes, "--out", str(out)).returncode
    manifest = out / ".osamd" / "manifest.jsonl"
    head, _, rest = manifest.read_text().partition("\n")
    manifest.write_text(json.dumps(json.loads(head) | {"digest": "0" * 64}) + "\n" + rest)
    before = tree(out)
    refused = osamd("batch", "--out", str(out), "--retry-failed")
    assert (2, before) == (refused.returncode, tree(out)), refused.err
    assert "are not those that this run began with" in refused.err


def test_a_first_run_is_continued_without_the_retry(
    osamd: Osamd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing to try again, and what fails in it is not to be tried after each interruption."""
    write_photo(tmp_path / "photos" / "a.png")
    monkeypatch.setattr("osamd.cli.batch.PATIENCE_S", 0.0)
    with puppet(SHOWN, problem("overloaded", 503)) as server:
        arguments = ("--everything", "--url", server.url, "--out", str(tmp_path / "out"), "--retry-failed")
        # As in a process of its own.
        monkeypatch.setattr(sys, "argv", ["osamd", "batch", str(tmp_path / "photos"), *arguments])
        stopped = osamd("batch", str(tmp_path / "photos"), *arguments)
    (told,) = [line for line in stopped.err.splitlines() if "to continue" in line]
    assert (4, False) == (stopped.returncode, "--retry-failed" in told), stopped.err


def test_how_to_continue_a_retry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it has tried again is not tried once more; what it has not, still is."""
    monkeypatch.setattr(sys, "argv", ["osamd", "batch", "--out", "a b", "--retry-failed"])
    for has_retried, expected in ((True, "osamd batch --out 'a b'"), (False, "osamd batch --out 'a b' --retry-failed")):
        _tell_how_to_continue(has_retried=has_retried)
        assert f"osamd: to continue where it stopped: {expected}\n" == capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--url", "http://127.0.0.1:9")])
def test_a_folder_whose_name_is_too_long_is_named(more: tuple[str, ...], osamd: Osamd, tmp_path: Path) -> None:
    """In one line, and nothing is promised; with a server, before it is asked."""
    write_photo(tmp_path / "photos" / "a.png")
    ended = osamd("batch", str(tmp_path / "photos"), "--everything", "--out", str(tmp_path / ("a" * 256)), *more)
    assert (1, True) == (ended.returncode, ended.err.endswith(": File name too long\n")), ended.err
    assert 1 == len(ended.err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PHOTOS"], "say what to find"),
        ([], "holds no run to continue"),
        (["--text", "cat"], "--text needs INPUT"),
        (["PHOTOS", "--text", "cat"], "prompt.texts: builtin:latest takes points"),
        (["PHOTOS", "--text", " , "], "--text: expected words"),
        (["PHOTOS", "--text", "cat,cat"], "--text: cat is given more than once"),
        (["PHOTOS", "--everything", "--model", "yoloworld"], "returns boxes but no masks"),
        (["PHOTOS", "--everything", "--model", "nothing"], "nothing"),
        (["PHOTOS", "--everything", "--format", "voc"], "expected one or more of coco, yolo, labelme, png, parquet"),
        (["PHOTOS", "--everything", "--part", "3/3"], "--part 3/3: expected I/N"),
        (["PHOTOS", "--boxes-from", "missing.json"], "missing.json: No such file or directory"),
        (["PHOTOS", "--points-from", "missing.csv"], "missing.csv: No such file or directory"),
        (["nowhere", "--everything"], "nowhere: no such file or folder"),
    ],
)
def test_arguments_that_make_no_sense_are_explained(
    arguments: list[str], message: str, osamd: Osamd, tmp_path: Path
) -> None:
    """Before anything is written."""
    write_photo(tmp_path / "photos" / "a.png")
    given = [str(tmp_path / "photos") if argument == "PHOTOS" else argument for argument in arguments]
    ended = osamd("batch", *given, "--out", str(tmp_path / "out"), env={"OSAMD_CACHE": str(tmp_path / "cache")})
    assert (2, True) == (ended.returncode, message in ended.err), ended.err
    assert not (tmp_path / "out").exists()
