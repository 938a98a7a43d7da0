"""Log lines on standard error: for people, or one JSON object a line.

``extra={"fields": {…}}`` adds members. Bodies, tokens and user names are never among them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

FORMATS: Final = ("text", "json")


class TextFormatter(logging.Formatter):
    """``2026-01-01T00:00:00.000Z INFO message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback where there is one."""
        line = f"{_time(record)} {record.levelname} {record.getMessage()}"
        for key, value in _fields(record).items():
            line += f" {key}={json.dumps(value)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        value = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return json.dumps(value)


def configure(*, level: str, format_name: str) -> None:
    """Send every logger of the process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_name == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line per probe and scrape; admissions have lines of their own.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    # It logs response bodies, Secrets among them, at DEBUG.
    logging.getLogger("kubernetes.client.rest").setLevel(logging.INFO)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Any = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}
