"""Lines of the log, as JSON and as text."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from serving import clean_environment
from waiting import WAIT_S

from osamd.events import ModelLoaded, RequestDone
from osamd.server.telemetry.logs import TEXT, JsonFormatter, TextFormatter, log_format
from osamd.settings import load_settings

FAILURE = ZeroDivisionError("what went wrong")


def record(message: str, **extra: object) -> logging.LogRecord:
    """A record as a logger would make it."""
    return logging.getLogger("osamd").makeRecord("osamd", logging.ERROR, __file__, 1, message, (), None, extra=extra)


def test_an_event_is_an_object_of_its_fields() -> None:
    """Machines need not take a sentence apart; what is not known is not there."""
    event = RequestDone("POST", "/api/generate", 200, 0.0512, "id-7", key_name="alice", stages={"encode": 0.0401234567})

    line = json.loads(JsonFormatter().format(record("done", event=event)))

    assert line.pop("time").endswith("+00:00")
    assert {
        "level": "error",
        "message": "done",
        "event": "RequestDone",
        "method": "POST",
        "path": "/api/generate",
        "status": 200,
        "seconds": 0.0512,
        "request_id": "id-7",
        "key_name": "alice",
        "route": "unmatched",
        "stages": {"encode": 0.040123},
    } == line


def test_what_a_caller_chose_is_bounded() -> None:
    """A path without end is cut, as in text."""
    line = JsonFormatter().format(record("done", event=RequestDone("GET", "/" + "a" * 5000, 404, 0.1, "id")))

    assert len(line) < 500


def test_a_line_is_one_line() -> None:
    """Whatever a message or a traceback has in it."""
    failed = record("two\nlines")
    failed.exc_info = (ZeroDivisionError, FAILURE, None)

    line = JsonFormatter().format(failed)

    assert "\n" not in line
    assert "two\nlines" == json.loads(line)["message"]
    assert "what went wrong" in json.loads(line)["exception"]


def test_other_events_are_objects_too() -> None:
    """Each has its name and fields."""
    line = json.loads(JsonFormatter().format(record("loaded", event=ModelLoaded("sam2:tiny", "cpu", 1.5))))

    assert ("ModelLoaded", "sam2:tiny", 1.5) == (line["event"], line["model"], line["seconds"])


def test_details_of_a_failure_name_the_request() -> None:
    """The id that the caller was given finds the line, in both forms."""
    failed = record("inference_failed: no", request_id="id-9")

    assert TextFormatter(TEXT).format(failed).endswith("ERROR   inference_failed: no (request id-9)")
    assert "id-9" == json.loads(JsonFormatter().format(failed))["request_id"]


@pytest.mark.parametrize(
    ("flags", "is_terminal", "expected"),
    [
        ({}, False, "json"),
        ({}, True, "text"),
        ({"app_env": "development"}, False, "text"),
        ({"log_format": "json", "app_env": "development"}, True, "json"),
        ({"log_format": "text"}, False, "text"),
    ],
)
def test_the_form_follows_the_reader(
    flags: dict[str, Any], *, is_terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine reads a production server's log, unless a terminal is there or somebody said otherwise."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)

    assert expected == log_format(load_settings(**flags))


EVERYTHING = """
import io, logging, warnings
from PIL import Image
from osamd.server.telemetry.logs import configure_log
from osamd.settings import Settings

configure_log(Settings(log_format="json"))
for number in range(1000):
    warnings.warn(f"number {number} " + "x" * 5000)
logging.getLogger("asyncio").error("a task\\nhas failed")
file = io.BytesIO()
Image.new("L", (9, 9)).save(file, "PNG")
Image.MAX_IMAGE_PIXELS = 50
Image.open(file)
"""


def test_warnings_and_libraries_lines_are_json_too() -> None:
    """Pillow's warnings of an image, and what asyncio logs, are lines like ours; a place in the code warns once."""
    command = [sys.executable, "-c", EVERYTHING]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT_S, check=True, env=clean_environment({})
    )
    first, second, third = (json.loads(line) for line in ended.stdout.splitlines())

    assert "" == ended.stderr
    assert first["message"].startswith("UserWarning: number 0 xxx")
    assert len(first["message"]) < 400
    assert ("error", "a task\nhas failed") == (second["level"], second["message"])
    assert "DecompressionBombWarning: " in third["message"]
    assert "warning" == third["level"]
