"""Secrets never appear in a log."""

import logging

import pytest
import structlog

from tidings.observability import logging as tidings_logging

CANARIES = (
    "ana.canary@example.org",
    "+41441234567",
    "tdg_CanaryCanaryCanary",
    "https://fcm.googleapis.com/fcm/send/canary-canary-canary-canary",
    "Bearer canary.canary.canary",
    "vapid t=canary.canary.canary, k=canarycanary",
)


@pytest.fixture(autouse=True)
def _restored() -> object:
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.mark.parametrize("text", CANARIES)
@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_secret_is_written(text: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    tidings_logging.configure("debug", "json" if form == "json" else "console")
    log = structlog.get_logger("test")
    log.info(f"said {text} in passing", why=f"it was {text}", nested={"list": [text]})
    logging.getLogger("library").warning("refused %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    written = capsys.readouterr().err
    assert "failed" in written
    assert "refused" in written
    assert "anary" not in written
    assert "41441234567" not in written


@pytest.mark.parametrize(
    "name", ["endpoint", "authorization", "email", "phone", "p256dh", "auth", "user_secret", "api_key"]
)
def test_values_are_hidden_by_name(name: str) -> None:
    assert tidings_logging.redact(None, "info", {name: "anything"}) == {name: "[hidden]"}


def test_searchable_ids_are_kept() -> None:
    event = {
        "event": "outcome recorded",
        "delivery_id": "019aa8f0-0000-7000-8000-000000000001",
        "host": "fcm.googleapis.com",
        "at": "2026-11-22T10:00:00+01:00",
        "author": "ana",
        "count": 3,
        "status": None,
    }
    assert tidings_logging.redact(None, "info", dict(event)) == event


def test_levels_below_the_chosen_one_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    tidings_logging.configure("warning", "json")
    structlog.get_logger("test").info("quiet")
    structlog.get_logger("test").warning("loud")
    written = capsys.readouterr().err
    assert "loud" in written
    assert "quiet" not in written
