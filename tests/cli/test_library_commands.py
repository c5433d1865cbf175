import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asking import ask
from blob_server import Answer, serve_blobs
from commands import Ended, Osamd
from serving import KEY, clean_environment
from shelf import Shelf, WebModel, run_library
from waiting import WAIT_S

from osamd.cli.models import human_age
from osamd.cli.printing import size, table
from osamd.runtime.graphs import GraphCache, graph_folder

LICENCE = "osamd: fresh:latest has the licence MIT https://example.org/licence"


class Home:
    """A user's machine: a catalogue with a local model, one on the web, and a bad row, and an empty cache."""

    def __init__(self, folder: Path, shelf: Shelf, osamd: Osamd) -> None:
        self._osamd = osamd
        self.cache = folder / "cache"
        self.own = shelf.add_local("own", "sam", license="MIT")
        self.fresh: WebModel = shelf.add_web("fresh")
        shelf.rows.append('[[model]]\nname = "broken"\nfamily = "nosuch"\n')
        self.catalog = shelf.write()

    def environment(self, **extra: str) -> dict[str, str]:
        """What a shell would have."""
        return clean_environment({"OSAMD_CACHE": str(self.cache), "OSAMD_CATALOG": str(self.catalog)} | extra)

    def osamd(self, *arguments: str, **extra: str) -> Ended:
        """Run a command to its end."""
        return self._osamd(*arguments, env=self.environment(**extra))


@pytest.fixture
def home(tmp_path: Path, osamd: Osamd) -> Iterator[Home]:
    """Such a machine, and the web server."""
    rows = tmp_path / "rows"
    rows.mkdir()
    with serve_blobs() as web:
        yield Home(tmp_path, Shelf(rows, web), osamd)


def names(listing: str) -> list[str]:
    """The first column without its heading."""
    return [line.split()[0] for line in listing.splitlines()[1:]]


def test_list(home: Home) -> None:
    """What is here is listed; with --all also what is not, without a word of the network."""
    done = home.osamd("list")
    assert 0 == done.returncode
    assert ["NAME", "ID", "SIZE", "MODIFIED"] == done.out.splitlines()[0].split()
    assert ["builtin:latest", "own:latest"] == names(done.out)
    everything = home.osamd("list", "--all").out
    assert {"fresh:latest", "sam:100m", "sam3:latest", "yoloworld:latest"} <= set(names(everything))
    (line,) = [line for line in everything.splitlines() if line.startswith("fresh:latest")]
    assert "<not pulled>" in line


@pytest.mark.parametrize("command", [("list",), ("show", "own"), ("rm", "fresh")])
def test_bad_rows_are_reported_on_stderr(home: Home, command: tuple[str, ...]) -> None:
    """Each command reports problems of the user's catalogue and does its work."""
    done = home.osamd(*command)
    assert f"osamd: {home.catalog}: row 3 (broken), family must be one of" in done.err
    assert "broken" not in done.out


def test_show(home: Home) -> None:
    """Licence, capabilities and files are shown before a model is pulled."""
    done = home.osamd("show", "yoloworld")
    assert 0 == done.returncode
    shown = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert shown["licence"].startswith("GPL-3.0-only https://")
    assert ("yoloworld:latest", "no") == (shown["name"], shown["here"])
    assert shown["takes"].endswith("texts")
    assert shown["yolo"].startswith("sha256:92660c64")
    assert "sam:100m" in home.osamd("show", "sam_vit_b").out


def test_pull_show_and_remove(home: Home) -> None:
    """The licence comes first, then the files, one line each; afterwards the model is here until it is removed."""
    done = home.osamd("pull", "fresh")
    assert (0, "") == (done.returncode, done.out)
    told = [line for line in done.err.splitlines() if "broken" not in line]
    assert LICENCE == told[0]
    assert "osamd: pulled fresh:latest" == told[-1]
    assert ["encoder", "decoder"] == [line.split()[1] for line in told[1:-1]]
    assert "\r" not in done.err
    assert all(place.exists() for place in home.fresh.places(home.cache))
    assert "fresh:latest" in names(home.osamd("list").out)
    # As a server that has loaded it leaves them.
    graphs = graph_folder(home.cache)
    graphs.mkdir(parents=True, exist_ok=True)
    for path in home.fresh.places(home.cache):
        kept = GraphCache(graphs, "1.0").place(path, provider="CPUExecutionProvider")
        assert kept is not None
        kept.write_bytes(b"optimised")
    done = home.osamd("rm", "fresh")
    assert 0 == done.returncode
    assert [] == list(graphs.iterdir())
    assert "osamd: removed fresh:latest, " in done.err
    assert not any(place.exists() for place in home.fresh.places(home.cache))
    done = home.osamd("rm", "fresh")
    assert 5 == done.returncode
    assert "fresh:latest is not on this machine" in done.err


def test_progress_bar_is_for_terminals(home: Home) -> None:
    """In a terminal there is a bar that redraws itself, and the licence stands before it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "osamd", "pull", "fresh"],
        env=home.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert 0 == process.wait(WAIT_S)
    text = seen.decode()
    assert text.index(LICENCE) < text.index("\r\x1b[K")
    assert "[##############################]" in text
    assert "encoder" in text
    assert "decoder" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pull", "nosuch"), 2, "unknown model 'nosuch'"),
        (("show", "nosuch"), 2, "unknown model 'nosuch'"),
        (("rm", "nosuch"), 2, "unknown model 'nosuch'"),
        (("rm", "builtin"), 2, "not in the cache"),
        (("rm", "own"), 2, "not in the cache"),
        (("rm", "fresh"), 5, "is not on this machine"),
        (("ps", "--url", "http://127.0.0.1:9"), 7, "cannot reach"),
    ],
    ids=str,
)
def test_exit_codes(home: Home, arguments: tuple[str, ...], code: int, words: str) -> None:
    """What goes wrong is one line on stderr, and an exit code of the error tree."""
    done = home.osamd(*arguments)
    assert (code, "") == (done.returncode, done.out)
    assert words in done.err
    assert "Traceback" not in done.err


def test_pull_that_fails(home: Home) -> None:
    """A model that no source has is exit code 5, with the source in the message; nothing is left that looks whole."""
    home.fresh.served["encoder"].then = Answer(status=404)
    done = home.osamd("pull", "fresh")
    assert 5 == done.returncode
    assert "404" in done.err
    assert "Traceback" not in done.err
    assert not any(place.exists() for place in home.fresh.places(home.cache))
    # What had come of it can be removed.
    home.fresh.served["encoder"].then = Answer()
    home.fresh.served["decoder"].then = Answer(status=404)
    assert 5 == home.osamd("pull", "fresh").returncode
    assert 0 == home.osamd("rm", "fresh").returncode


def test_mirror(home: Home) -> None:
    """``OSAM_BLOB_ENDPOINT`` is where blobs come from, by their bare digest."""
    with serve_blobs() as mirror:
        for content, place in zip(home.fresh.contents.values(), home.fresh.places(home.cache), strict=True):
            mirror.put(f"/blobs/{place.name.removeprefix('sha256-')}", content)
        done = home.osamd("pull", "fresh", OSAM_BLOB_ENDPOINT=f"{mirror.url}/blobs/")
        assert 0 == done.returncode, done.err
        assert 2 == len(mirror.asked)


def test_run_pulls(home: Home, tmp_path: Path) -> None:
    """``osamd run`` pulls a model that is not here, its licence first, and segments with it."""
    photo = Path(__file__).parents[2] / "examples" / "cat.jpg"
    done = home.osamd("run", "fresh", "--image", str(photo), "--point", "225,150", "--json")
    assert 0 == done.returncode, done.err
    assert LICENCE in done.err
    assert "fresh:latest" == json.loads(done.out)["model"]
    forbidden = home.osamd("rm", "fresh")
    assert 0 == forbidden.returncode
    done = home.osamd("run", "fresh", "--image", str(photo), "-o", str(tmp_path / "m.png"), OSAMD_PULL="never")
    assert 5 == done.returncode
    assert "fresh:latest is not on this server" in done.err


def test_ps(osamd: Osamd, tmp_path: Path, photo: bytes) -> None:
    """The models that a server has loaded, for those who have its key."""
    with run_library(tmp_path) as library:

        def ps(key: str) -> Ended:
            return osamd("ps", "--url", library.server.url, env={"API_KEY": key})

        with library.server.client() as client:
            ask(client, photo, model="sam:300m", keep_alive=-1)
        listing = ps(KEY).out
        assert {"builtin:latest", "sam:300m"} == set(names(listing))
        (line,) = [line for line in listing.splitlines() if line.startswith("sam:300m")]
        assert ["cpu", "9999-12-31T00:00:00Z"] == line.split()[-2:]
        refused = ps("wrong")
        assert (3, "") == (refused.returncode, refused.out)
        assert "X-API-Key is missing or wrong" in refused.err


def test_doctor_reports_bad_rows(home: Home) -> None:
    """The user's catalogue is examined with the rest: how many models there are, and which rows are left out."""
    done = home.osamd("doctor")
    assert 1 == done.returncode
    lines = done.out.splitlines()
    (summary,) = [line for line in lines if line.startswith("ok  catalogue")]
    assert f"models, 2 of them pulled, including those of {home.catalog}" in summary
    problems = [line for line in lines if line.startswith("!!  catalogue")]
    assert "row 3 (broken), family must be one of" in problems[0]


def test_doctor_runs_the_users_own_models(home: Home) -> None:
    """Each one on disk is loaded and run; a graph that does not match its family is reported with the reason."""
    (line,) = [line for line in home.osamd("doctor").out.splitlines() if line.startswith("ok  own:latest")]
    assert "loads and runs, on cpu" in line
    home.own["decoder"].write_bytes(home.own["encoder"].read_bytes())
    done = home.osamd("doctor")
    assert 1 == done.returncode
    (line,) = [line for line in done.out.splitlines() if line.startswith("!!  own:latest")]
    assert "expected an input" in line


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (38_700_000, "38.7 MB"),
        (3_400_000_000, "3.40 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes(nbytes: int, text: str) -> None:
    """Sizes use decimal units."""
    assert text == size(nbytes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (200_000, "2 days ago")],
)
def test_relative_times(seconds: int, text: str) -> None:
    """How long ago something was, in the largest unit."""
    assert text == human_age(datetime.now(UTC) - timedelta(seconds=seconds))


def test_columns() -> None:
    """Cells of a column begin at one place, and no line ends in spaces."""
    assert "a    bb\nccc  d" == table([("a", "bb"), ("ccc", "d")])
