"""Logs: structured, to stderr, and without what must never be in them (capabilities, credentials, personal data)."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Literal

import structlog

#: names of values that are never written, whatever they hold
_HIDDEN = re.compile(
    r"endpoint|authorization|cookie|secret|token|password|email|phone|p256dh|\bauth\b|private|api_?key|headers|body",
    re.I,
)
_PATTERNS = (
    # API keys and bearer credentials
    (re.compile(r"tdg_\w+"), "tdg_…"),
    (re.compile(r"\b(bearer)\s+[\w.~+/=-]{8,}", re.I), r"\1 …"),
    (re.compile(r"\b(vapid)\s+t=[^\s,]+(,\s*k=[\w=-]+)?", re.I), r"\1 …"),
    # a push endpoint is a capability: whoever has its long path can push
    (re.compile(r"(https?://[^/\s'\"]+)/[^\s'\"]{20,}"), r"\1/…"),
    (re.compile(r"[^\s@<>:'\"]+@[^\s@<>'\"]+\.[a-z]{2,}", re.I), "…@…"),
    (re.compile(r"(?<![\w.:-])\+\d{7,15}\b"), "+…"),
)

#: libraries whose every step is of interest only to whoever debugs them
_TALKATIVE = ("alembic", "asyncio", "uvicorn", "aiosqlite", "sqlalchemy")

Event = MutableMapping[str, object]


def configure(level: Literal["debug", "info", "warning", "error"], form: Literal["console", "json"]) -> None:
    """Send structlog and the standard library's loggers to stderr in one form.

    level: the least severe to show; form: `console` for people, `json` for collectors.
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
        if form == "json"
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
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def redact(_logger: object, _method: str, event: Event) -> Event:
    """Hide values by name and by shape; a structlog processor. Ids stay: they are what one searches for."""
    for name, value in event.items():
        if not name.startswith("_"):
            event[name] = _clean(name, value)
    return event


def _clean(name: str, value: object) -> object:
    if _HIDDEN.search(name) and not isinstance(value, bool | int | float | None):
        return "[hidden]"
    if isinstance(value, Mapping):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", inner) for inner in value]
    if isinstance(value, bool | int | float | None):
        return value
    text = str(value)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text
