"""Metrics of requests: labels are bounded, and every documented metric has a series from the start."""

import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

DOCS = Path(__file__).parents[4] / "docs"
METRIC_NAME = re.compile(r"`(tidings_[a-z_]+)(?:\{[^}`]*\})?`")
#: the verbs of llhttp, besides the usual ones
ODD_METHODS = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "M-SEARCH",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "get",
    "BREW",
]


async def _read_metrics(call: Any) -> str:
    reply = await call("GET", "/metrics", key=None)
    assert reply.status == 200
    text: str = reply.body.decode()
    return text


async def test_methods_and_paths_that_strangers_choose_make_no_series(call: Any) -> None:
    paths = list((await call("GET", "/openapi.json", key=None)).json["paths"])
    await call("ODD", "/api/nothing", key=None)
    before = len((await _read_metrics(call)).splitlines())
    for method in ODD_METHODS:
        for path in [*paths, *(f"/nothing/{method}/{number}" for number in range(3)), f"/web/{method}"]:
            assert (await call(method, path, key=None)).status in (404, 405)
    text = await _read_metrics(call)
    # the series of one method and one route: count, buckets, sum
    assert len(text.splitlines()) - before < 60
    labels = {
        (found[1], found[2])
        for found in re.finditer(r'tidings_http_requests_total\{method="(\w+)",route="([^"]+)"', text)
    }
    assert ("other", "none") in labels
    assert {method for method, _ in labels} <= {"GET", "other"}


async def test_every_documented_metric_has_a_series_on_an_idle_server(call: Any) -> None:
    text = await _read_metrics(call)
    named = {name for page in DOCS.rglob("*.md") for name in METRIC_NAME.findall(page.read_text(encoding="utf-8"))}
    assert "tidings_breakers_open" in named
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    # providers and hooks have their series where one is configured
    expected = {name for name in named if not name.startswith(("tidings_provider_", "tidings_hook_"))}
    assert expected - {one.name for one in samples} == set()
    targets = {one.labels["target"] for one in samples if one.name == "tidings_breakers_open"}
    assert {"https://fcm.googleapis.com", "https://*.notify.windows.com"} <= targets
    kinds = {one.labels["kind"] for one in samples if one.name == "tidings_processes"}
    assert kinds == {"serve", "api", "worker"}
