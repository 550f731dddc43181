"""What the two commands that stay, server and agent, do before they begin."""

from __future__ import annotations

import logging
import os

from fleet.errors import UsageError


def begin_log(debug: str) -> None:
    """Log to standard error: what goes wrong, with `debug` what goes on too; "json" has each record as a document."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if debug == "json":
        from fleet.cli.jsonlog import JsonFormatter

        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


def make_data_directory(directory: str) -> None:
    """Make the directory that the process keeps everything in; raises UsageError where that cannot be."""
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--data-dir {directory}: the directory cannot be made: {error.strerror}") from error
