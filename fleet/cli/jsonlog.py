"""Log records as lines of JSON, among those of `--debug=json` (see `docs/minicoap/tracing.md`)."""

from __future__ import annotations

import json
import logging

from minicoap.core.trace import SCHEMA
from minicoap.shell.trace import iso_time


class JsonFormatter(logging.Formatter):
    """One record as one document, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document = {
            "time": iso_time(record.created),
            "schema": SCHEMA,
            "event": "log",
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document)
