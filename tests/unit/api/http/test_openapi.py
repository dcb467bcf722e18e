"""`/docs` begins with the routes of everyday use."""

import asyncio
import json

import pytest

from tidings.cli import openapi


def test_sections_and_routes_are_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(openapi.openapi())
    paths = json.loads(capsys.readouterr().out)["paths"]
    tags = list(dict.fromkeys(next(iter(operations.values()))["tags"][0] for operations in paths.values()))
    assert tags == [
        "notifications",
        "users",
        "preferences",
        "topics",
        "push",
        "inbox",
        "streams",
        "commerce",
        "events",
        "domain events",
        "templates",
        "audiences",
        "explain",
        "channels",
        "providers",
        "suppressions",
        "hooks",
        "queues",
        "dead letters",
        "health",
    ]
    order = list(paths)
    assert order[0] == "/api/notifications"
    of_notifications = [path for path in order if path.startswith("/api/notifications")]
    assert of_notifications[-2:] == ["/api/notifications/batch", "/api/notifications/process"]
