"""Logging setup: where lines go and their format, JSON for machines or text for people."""

import json
import logging
import sys
import time
import warnings
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from osamd.events import shown_path
from osamd.settings import Settings

TEXT = "%(asctime)s %(levelname)-7s %(message)s%(request)s"
# uvicorn's access log contains query strings, so prompts too, and nothing that our own line lacks. The multipart
# parser's warnings repeat what the client gets as an error.
SILENT = ("uvicorn.access", "python_multipart")
# Only for traces; a log line has its own time.
LEFT_OUT = frozenset({"begun", "stages_begun"})
LOGGERS = ("osamd", "uvicorn", "uvicorn.error", "uvicorn.asgi")


# Minimum interval between warnings from one place in the code: a caller's images could cause thousands.
WARN_EVERY_S = 60.0
MOST_WARNING_CHARS = 200


def configure_log(settings: Settings) -> None:
    """Send all log lines, including libraries' and Python's warnings, to one place: JSON to stdout, text to stderr."""
    is_json = log_format(settings) == "json"
    handler = logging.StreamHandler(sys.stdout if is_json else sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter(TEXT))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(settings.log_level.upper())
        logger.propagate = False
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    # Otherwise Python would remember the text of every warning, and callers' images can cause ever new ones.
    warnings.simplefilter("always", append=True)
    warnings.showwarning = WarningLog()
    for name in SILENT:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


def log_format(settings: Settings) -> Literal["json", "text"]:
    """The log format: as configured, or text in development and in a terminal, else JSON."""
    if settings.log_format != "auto":
        return settings.log_format
    is_read = settings.app_env == "development" or sys.stderr.isatty()
    return "text" if is_read else "json"


class WarningLog:
    """Logs Python's warnings, such as Pillow's about an image."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], float] = {}

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Log a warning, unless the same place in the code has just caused one."""
        del file, line
        now = time.monotonic()
        if now - self._told.get((filename, lineno), -WARN_EVERY_S) < WARN_EVERY_S:
            return
        self._told[filename, lineno] = now
        text = str(message)[:MOST_WARNING_CHARS]
        logging.getLogger("py.warnings").warning("%s: %s (%s:%d)", category.__name__, text, filename, lineno)


class TextFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, followed by the request's id if there is one."""
        request_id = getattr(record, "request_id", None)
        record.request = f" (request {request_id})" if request_id else ""
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``message``, and the fields of the event, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        event = getattr(record, "event", None)
        if event is not None:
            line["event"] = type(event).__name__
            line |= {
                field.name: _shown(field.name, value)
                for field in fields(event)
                if field.name not in LEFT_OUT and (value := getattr(event, field.name)) is not None
            }
        if (request_id := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _shown(name: str, value: Any) -> Any:
    """A field as logged: times rounded, and texts from callers truncated."""
    if name == "stages":
        return {stage: round(seconds, 6) for stage, seconds in value.items()}
    if isinstance(value, float):
        return round(value, 6)
    return shown_path(value) if name in {"path", "method", "traceparent"} else value
