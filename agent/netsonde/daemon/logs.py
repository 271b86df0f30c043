"""Structured logs on standard error: JSON for machines, coloured lines for a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog

from ..config.sections import LogSection


def show_as_json(_logger: object, _method: str, line: dict[str, Any]) -> dict[str, Any]:
    """Renders nested values, such as an audit entry, as JSON."""
    return {
        name: msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
        for name, value in line.items()
    }


def configure(settings: LogSection) -> None:
    """Sets up logging; call again to change the level."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderers: list[Any] = (
        [show_as_json, structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,  # loggers must follow a level change
    )
    # nats-py and asyncio log through the standard library.
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, force=True)
