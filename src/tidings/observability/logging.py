"""Structured logs on stderr, with capabilities, credentials and personal data redacted."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Literal

import structlog

#: names of fields whose values are never logged
_SENSITIVE_NAMES = re.compile(
    r"endpoint|authorization|cookie|secret|token|password|email|phone|p256dh|\bauth\b|private|api_?key|headers|body",
    re.I,
)
_REDACTION_PATTERNS = (
    # API keys and bearer credentials
    (re.compile(r"tdg_\w+"), "tdg_…"),
    (re.compile(r"\b(bearer)\s+[\w.~+/=-]{8,}", re.I), r"\1 …"),
    (re.compile(r"\b(vapid)\s+t=[^\s,]+(,\s*k=[\w=-]+)?", re.I), r"\1 …"),
    # a push endpoint is a capability: its path is sufficient to send pushes
    (re.compile(r"(https?://[^/\s'\"]+)/[^\s'\"]{20,}"), r"\1/…"),
    (re.compile(r"[^\s@<>:'\"]+@[^\s@<>'\"]+\.[a-z]{2,}", re.I), "…@…"),
    (re.compile(r"(?<![\w.:-])\+\d{7,15}\b"), "+…"),
)

#: libraries whose debug and info messages are shown at level debug only
_NOISY_LOGGERS = ("alembic", "asyncio", "uvicorn")
#: libraries that log the parameters or the rows of SQL statements at level debug or info: never shown
_SQL_LOGGERS = ("aiosqlite", "asyncpg", "sqlalchemy")

Event = MutableMapping[str, object]


def configure(level: Literal["debug", "info", "warning", "error"], output_format: Literal["console", "json"]) -> None:
    """Send structlog and the standard library's loggers to stderr in one format.

    `level`: the lowest level to show. `output_format`: `console` for terminals, `json` for log collectors.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if output_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    for name in _SQL_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def redact(_logger: object, _method: str, event: Event) -> Event:
    """Redact values by name and by pattern; a structlog processor. Ids are kept, so that logs can be searched by id."""
    for name, value in event.items():
        if not name.startswith("_"):
            event[name] = _redact_value(name, value)
    return event


def _redact_value(name: str, value: object) -> object:
    if _SENSITIVE_NAMES.search(name) and not isinstance(value, bool | int | float | None):
        return "[hidden]"
    if isinstance(value, Mapping):
        return {key: _redact_value(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value("", inner) for inner in value]
    if isinstance(value, bool | int | float | None):
        return value
    text = str(value)
    for pattern, replacement in _REDACTION_PATTERNS:
        text = pattern.sub(replacement, text)
    return text
