"""``osamd bench``: its figures and pictures, and the command against a real server and the built-in model."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commands import Osamd
from puppet import Told, puppet
from serving import KEY, RunningServer, clean_environment, free_port
from threaded import serving
from waiting import WAIT_S

from osamd.cli.bench.chart import svg
from osamd.cli.bench.phases import Plan, measure
from osamd.cli.bench.pictures import Pictures
from osamd.cli.bench.progress import Progress
from osamd.cli.bench.report import decades, duration, strips, text
from osamd.cli.bench.samples import Answer, Phase, Result, percentile
from osamd.cli.printing import size, table
from osamd.errors import AccessError, InvalidImageError, OverloadedError, UnknownModelError
from osamd.pixels.images import decode_image

OSAMD = str(Path(sys.executable).with_name("osamd"))
PHASES = ["first answer", "new image", "click, image again", "click by image_id", "click by image_id, 2 clients"]
FEW = ("--requests", "4", "--clients", "2", "--seconds", "0.5")
SVG = "{http://www.w3.org/2000/svg}"


def phase(name: str, seconds: Sequence[float], stages_ms: dict[str, float]) -> Phase:
    """Answers of these durations, all with the same stages."""
    return Phase(name, [Answer(each, 51, 24_100, stages_ms) for each in seconds], elapsed_s=2.0)


NEW = phase("new image", [1.5, 2.5], {"encode": 1700.0, "decode": 50.0})
CLICK = phase("click by image_id", [0.06, 0.05, 0.07, 0.06], {"decode": 50.0, "total": 53.0})
RESULT = Result("http://127.0.0.1:1 & co", "builtin:latest", 1920, 1280, "2026-11-25T10:00:00+00:00", [NEW, CLICK])


# --- figures --------------------------------------------------------------------------------------------------------


def test_percentiles_are_values_that_were_measured() -> None:
    """The nearest rank; of few values the 99th is the worst."""
    assert [2.0, 4.0, 4.0] == [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (50, 90, 99)]
    assert [1.0, 99.0, 100.0] == [percentile([float(n) for n in range(1, 101)], share) for share in (0, 99, 100)]


def test_phase_has_rate_bytes_and_time_outside_the_server() -> None:
    """What no stage has is the server's up to its total, and outside from there on: all parts sum up to the whole."""
    assert (2.0, 51, 24_100) == (CLICK.per_second, CLICK.sent_bytes, CLICK.received_bytes)
    assert {"decode": 50.0, "other": 3.0, "outside": 7.0} == pytest.approx(CLICK.stages_ms())
    assert {"encode": 1700.0, "decode": 50.0, "other": 0.0, "outside": 250.0} == pytest.approx(NEW.stages_ms())


def test_json_has_every_answer() -> None:
    """Whoever wants another percentile can take it."""
    document = json.loads(json.dumps(RESULT.as_json()))

    assert [0.05, 0.06, 0.06, 0.07] == sorted(document["phases"][1]["seconds"])
    assert (0.06, 0.07) == (document["phases"][1]["p50_s"], document["phases"][1]["p99_s"])
    assert {"decode": 50.0, "other": 3.0, "outside": 7.0} == document["phases"][1]["stages_ms"]


def test_durations_and_sizes_have_fitting_units() -> None:
    """Three digits are what such a measurement is good for."""
    assert ["4.12 ms", "61.2 ms", "1.97 s"] == [duration(0.00412), duration(0.0612), duration(1.97)]
    assert ["51 B", "24.1 KB", "20.9 MB", "1.28 GB"] == [size(51), size(24_100), size(20.9e6), size(1.28e9)]


# --- text and picture -----------------------------------------------------------------------------------------------


def test_columns_are_aligned() -> None:
    """Names to the left, figures to the right, nothing behind the last one."""
    assert "      n   p50\na     1  5 ms\nbbb  20" == table(
        [["", "n", "p50"], ["a", "1", "5 ms"], ["bbb", "20", ""]], are_figures=True
    )


def test_strips_place_answers_between_round_numbers() -> None:
    """More ink where more answers are; the axis spans whole decades."""
    axis, new, click = strips([NEW, CLICK]).splitlines()

    assert (-2, 1) == decades([NEW, CLICK])
    assert ["10 ms", "100 ms", "1 s", "10 s"] == [part.strip() for part in axis.split("  ") if part.strip()]
    assert [".   .", ".: ."] == [line.partition("|")[2].rstrip("|").strip() for line in (new, click)]
    assert axis.index("100 ms") > click.rindex(":") > axis.index("10 ms")
    assert new.index(".") > axis.index("1 s")


def test_one_answer_fits_a_decade() -> None:
    """An axis needs some length even when all answers took the same time."""
    assert (-1, 0) == decades([phase("one", [0.5], {})])
    assert (0, 1) == decades([phase("one", [1.0], {})])


def test_the_report_has_latencies_rate_and_stages() -> None:
    """A stage that a phase does not have stays empty."""
    lines = text(RESULT).splitlines()

    assert "http://127.0.0.1:1 & co  builtin:latest  1920 x 1280 photo" == lines[0]
    assert "click by image_id  4  60.0 ms  70.0 ms  70.0 ms  70.0 ms  51 B   24.1 KB" in lines
    assert "1 client: 2.0 clicks a second over 2.0 s" in lines
    assert "                   encode  decode  other  outside" in lines
    assert "click by image_id            50.0    3.0      7.0" in lines


def test_chart_has_a_dot_for_each_answer_and_full_width_bars() -> None:
    """It is an XML document whatever the server is called."""
    picture = ET.fromstring(svg(RESULT))  # noqa: S314 - our own

    assert 6 == len(picture.findall(f"{SVG}circle"))
    bars = [bar for bar in picture.findall(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert [560.0, 560.0] == pytest.approx([sum(widths[:4]), sum(widths[4:])], abs=0.2)
    assert "http://127.0.0.1:1 & co" in "".join(picture.itertext())


def test_chart_has_percentiles_of_each_phase_and_throughput_by_clients() -> None:
    """The last two phases are the same clicks from one client and from several."""
    many = Phase("click by image_id, 4 clients", CLICK.answers, elapsed_s=0.5, clients=4)
    result = Result("http://127.0.0.1:1", "builtin:latest", 1, 1, "2026-11-25", [NEW, CLICK, many])
    words = list(ET.fromstring(svg(result)).itertext())  # noqa: S314 - our own

    assert {"latency by percentile", "p50", "p99", "answers a second", "1 client", "4 clients"} <= set(words)
    assert {"1", "10"} <= set(words)


# --- photos ---------------------------------------------------------------------------------------------------------


def test_each_photo_is_new_to_the_server(tmp_path: Path, photo: bytes) -> None:
    """A server must not know it from before, and the mask must be of the same thing."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(photo)
    pictures = Pictures(path)
    first, second = (decode_image(pictures.fresh(), max_pixels=10**7).pixels.astype(int) for _ in range(2))

    assert (451, 300) == (pictures.width, pictures.height)
    assert abs(first[:16, :16] - second[:16, :16]).max() > 20
    assert 0 == abs(first[32:, 32:] - second[32:, 32:]).max()


def test_example_photo_is_full_size() -> None:
    """Large enough that decoding and masks cost what they cost in life."""
    assert (1920, 1280) == (Pictures(None).width, Pictures(None).height)


def test_missing_photo_is_refused(tmp_path: Path) -> None:
    """Before anything is asked."""
    with pytest.raises(InvalidImageError, match="No such file"):
        Pictures(tmp_path / "missing.jpg")


# --- a real server --------------------------------------------------------------------------------------------------


def test_a_deployment_is_measured(osamd: Osamd, server: RunningServer, tmp_path: Path) -> None:
    """All phases, their stages and bytes; figures and picture in files; the key nowhere."""
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.svg"

    ended = osamd("bench", server.url, *FEW, "--json", str(figures), "--plot", str(picture), env={"API_KEY": KEY})

    assert (0, f"osamd: wrote {figures}\nosamd: wrote {picture}\n") == (ended.returncode, ended.err)
    document = json.loads(figures.read_text("utf-8"))
    assert PHASES == [item["name"] for item in document["phases"]]
    assert [1, 2, 4, 4] == [item["answers"] for item in document["phases"][:4]]
    first, new, again, by_id, together = document["phases"]
    for item in (first, new):
        assert item["stages_ms"]["encode"] > 0
    for item in (again, by_id, together):
        assert "encode" not in item["stages_ms"]
        assert item["stages_ms"]["decode"] > 0
    assert new["sent_bytes"] > 100_000
    assert by_id["sent_bytes"] < 200
    assert all(item["received_bytes"] > 1000 for item in document["phases"])
    assert together["per_second"] * together["elapsed_s"] == pytest.approx(together["answers"], rel=0.01)
    assert all(name in ended.out for name in PHASES)
    drawn = ET.fromstring(picture.read_text("utf-8"))  # noqa: S314 - our own
    assert 11 + together["answers"] == len(drawn.findall(f"{SVG}circle"))
    assert KEY not in ended.out + figures.read_text("utf-8") + picture.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "key", "code", "words"),
    [
        ((), "not-the-key-9x", 3, "missing or wrong"),
        (("--model", "no-such-model"), KEY, 2, "unknown model 'no-such-model'"),
        (("--image", "missing.jpg"), KEY, 2, "missing.jpg: No such file"),
        (("--clients", "0"), KEY, 2, "expected a number from 1 to 1000"),
        (("--seconds", "nan"), KEY, 2, "expected a number above 0"),
    ],
)
def test_mistakes_have_the_exit_codes_of_the_error_tree(
    osamd: Osamd, server: RunningServer, arguments: tuple[str, ...], key: str, code: int, words: str
) -> None:
    """One line on stderr, nothing on stdout, and never the key."""
    ended = osamd("bench", server.url, *arguments, env={"API_KEY": key})

    assert (code, "") == (ended.returncode, ended.out)
    assert words in ended.err
    assert key not in ended.err
    assert "Traceback" not in ended.err


def test_unreachable_server_is_reported_when_patience_ends(osamd: Osamd) -> None:
    """A sleeping host that never wakes."""
    ended = osamd("bench", f"http://127.0.0.1:{free_port()}", "--patience", "0.3")

    assert 7 == ended.returncode
    assert "cannot reach" in ended.err


def test_table_is_printed_before_a_file_fails(osamd: Osamd, server: RunningServer, tmp_path: Path) -> None:
    """The table is out before files are written."""
    ended = osamd("bench", server.url, *FEW, "--json", str(tmp_path / "missing" / "bench.json"), env={"API_KEY": KEY})

    assert 2 == ended.returncode
    assert "first answer" in ended.out
    assert "No such file" in ended.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--json", "bench.svg"), "bench.svg: the output is application/json; expected a name that ends in .json"),
        (("--plot", "bench.png"), "bench.png: the output is image/svg+xml; expected a name that ends in .svg"),
        (("--json", "-", "--plot", "-"), "--json - and --plot - both write to standard output"),
        (("--image", "-"), "not an image"),
        (("--image", "https://example.com/cat.jpg"), "expected a file or -, not a URL"),
        (("--model", ""), "unknown model ''"),
    ],
)
def test_unusable_files_are_refused_before_measuring(
    osamd: Osamd, server: RunningServer, arguments: tuple[str, ...], part: str
) -> None:
    """Before anything is measured."""
    ended = osamd("bench", server.url, *arguments, env={"API_KEY": KEY})

    assert (2, "") == (ended.returncode, ended.out)
    assert part in ended.err


def test_json_on_stdout_is_alone_there(osamd: Osamd, server: RunningServer, photo: bytes) -> None:
    """``--json -`` leaves stdout to the figures, and the table goes to stderr; the photo may come from stdin."""
    ended = osamd("bench", server.url, *FEW, "--image", "-", "--json", "-", env={"API_KEY": KEY}, stdin=photo)

    assert 0 == ended.returncode, ended.err
    assert PHASES == [item["name"] for item in json.loads(ended.out)["phases"]]
    assert "first answer" in ended.err


def test_another_servers_models_are_no_traceback(osamd: Osamd) -> None:
    """Ollama has the same route, and one's ports are easily mixed up."""
    with puppet(Told(200, {"models": [{"name": "llama3:latest", "size": 1, "expires_at": "2026"}]})) as other:
        ended = osamd("ps", "--url", other.url)
    assert (7, "osamd: unexpected answer: is this an osamd server?\n") == (ended.returncode, ended.err)


@pytest.mark.parametrize("url", ["", "localhost:11368", "ftp://localhost"])
@pytest.mark.parametrize("command", [("bench",), ("ps", "--url")])
def test_invalid_url_is_refused_at_once(osamd: Osamd, command: tuple[str, ...], url: str) -> None:
    """Without trying for as long as patience lasts."""
    ended = osamd(*command, url)

    assert (2, "") == (ended.returncode, ended.out)
    assert "osamd: url: expected a URL such as http://127.0.0.1:11368" in ended.err


def test_terminal_shows_progress(server: RunningServer) -> None:
    """A bar a phase on stderr, gone when the table comes."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [OSAMD, "bench", server.url, *FEW],
        env=clean_environment({"API_KEY": KEY}),
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        # Linux ends a terminal nobody writes to any more with an error instead of an end.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 4096):
                shown += piece
        os.close(ours)
        table = process.communicate(timeout=WAIT_S)[0]

    assert b"[.............................." in shown
    assert b"[##############################] click by image_id" in shown
    assert shown.endswith(b"\r\x1b[K")
    assert b"click by image_id, 2 clients" in table


# --- in process -----------------------------------------------------------------------------------------------------


def plan(url: str, **changes: object) -> Plan:
    """A short one."""
    usual = {"api_key": KEY, "model": None, "image": None, "requests": 2, "clients": 2, "seconds": 0.2}
    return Plan(**{"url": url, "patience_s": 5.0, **usual, **changes})  # type: ignore[arg-type]


class Full(BaseHTTPRequestHandler):
    """Has no room for every ``every``-th request; finds nothing in the others."""

    every: ClassVar[int]
    asked: ClassVar[int]

    def do_POST(self) -> None:
        """Any request."""
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        is_full = self.asked % self.every == 0
        found: dict[str, Any] = {"model": "fake:latest", "image_id": "h", "width": 4, "height": 3, "annotations": []}
        body = json.dumps(
            {"code": "overloaded", "title": "overloaded", "detail": "full"} if is_full else found
        ).encode()
        self.send_response(503 if is_full else 200)
        self.send_header("Server-Timing", "decode;dur=0.01")
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Nothing."""


@contextlib.contextmanager
def full_server(every: int) -> Iterator[str]:
    """The address of one."""
    Full.every, Full.asked = every, 0
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Full)) as url:
        yield url


def test_refusals_are_counted_and_not_measured() -> None:
    """An answer that came fast because it was a refusal must not look like a fast one."""
    with full_server(every=4) as url:
        result = measure(plan(url, requests=6), Progress())

    assert [1, 2, 4, 4] == [len(item.answers) for item in result.phases[:4]]
    assert [0, 0, 2, 2] == [item.refused for item in result.phases[:4]]
    together = result.phases[-1]
    assert together.refused > 0
    assert f", {together.refused} refused" in text(result)


def test_a_password_in_the_address_is_not_in_the_result() -> None:
    """Which is written to files that are shared."""
    with full_server(every=1000) as url:
        result = measure(plan(url.replace("//", "//me:s3cr3t@")), Progress())

    assert url == result.url


def test_server_that_refuses_everything_is_an_error() -> None:
    """There is nothing to tell about it."""
    with full_server(every=1) as url, pytest.raises(OverloadedError):
        measure(plan(url, patience_s=0.1), Progress())


def test_the_key_is_not_in_the_plans_repr(server: RunningServer) -> None:
    """A plan may end up in a traceback."""
    assert KEY not in repr(plan(server.url))


def test_server_errors_keep_their_types(server: RunningServer) -> None:
    """As from the client, whichever phase meets them."""
    with pytest.raises(UnknownModelError):
        measure(plan(server.url, model="no-such-model"), Progress())
    with pytest.raises(AccessError):
        measure(plan(server.url, api_key=None), Progress())
