"""Pages, static files, the OpenAPI document, and request metrics."""

import re
from typing import Any

import pytest


async def test_the_root_redirects_to_the_demo_if_it_is_on(call: Any) -> None:
    reply = await call("GET", "/", key=None)
    assert (reply.status, reply.headers["location"]) == (307, "/demo/")


@pytest.mark.parametrize(("event_id", "shown"), [("019aa8f0-0000", "019aa8f0-0000"), ("a&b=c #d", "a%26b%3Dc%20%23d")])
async def test_the_page_of_an_event_is_the_demo_page(call: Any, event_id: str, shown: str) -> None:
    reply = await call("GET", f"/events/{event_id}", key=None)
    assert (reply.status, reply.headers["location"]) == (307, f"/demo/?event={shown}")


async def test_the_docs_load_nothing_from_other_origins(call: Any) -> None:
    page = await call("GET", "/docs", key=None)
    assert page.status == 200
    links = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert len(links) == 4
    for link in links:
        assert (await call("GET", link, key=None)).status == 200
    assert b"<script>" not in page.body


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/web/vendor/swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/web/vendor/swagger-ui/swagger-ui.css", "text/css; charset=utf-8"),
        ("/web/vendor/swagger-ui/favicon-32x32.png", "image/png"),
    ],
)
async def test_files_have_their_type_and_are_sent_once(call: Any, url: str, kind: str) -> None:
    first = await call("GET", url, key=None)
    assert (first.status, first.headers["content-type"], first.headers["cache-control"]) == (200, kind, "no-cache")
    again = await call("GET", url, key=None, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("url", ["/web/../pyproject.toml", "/web/%2e%2e/runtime.py", "/web/nothing.js", "/web/"])
async def test_nothing_else_is_served(call: Any, url: str) -> None:
    assert (await call("GET", url, key=None)).status == 404


async def test_the_service_worker_may_have_the_whole_site(call: Any) -> None:
    reply = await call("GET", "/sw.js", key=None)
    assert reply.status == 200
    assert reply.headers["service-worker-allowed"] == "/"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["content-type"].startswith("text/javascript")


#: ends of the paths of routes that change something and take no body
WITHOUT_BODY = (
    *("/token", "/cancel", "/reset", "/publish", "/process", "/recall", "/tickets"),
    "/topics/{topic}",
    *("/orders/{order_id}/deliver", "/stock-keepers/{user_id}"),
    *("/pause", "/resume", "/run", "/repeat"),
    *("/seen", "/read", "/unread", "/archive", "/unarchive"),
)


async def test_the_openapi_document_is_complete_and_its_references_resolve(call: Any) -> None:
    reply = await call("GET", "/openapi.json", key=None)
    assert reply.status == 200
    description = reply.json
    schemas = description["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/([^\"]+)", reply.body.decode()):
        assert name in schemas
    assert b"HTTPValidationError" not in reply.body
    for path, item in description["paths"].items():
        for method, operation in item.items():
            assert "4XX" in operation["responses"], (method, path)
            assert "security" in operation, (method, path)
            if method in {"post", "put", "patch"} and "security" in operation:
                assert "requestBody" in operation or path.endswith(WITHOUT_BODY), (method, path)


async def test_every_operation_has_a_summary(call: Any) -> None:
    description = (await call("GET", "/openapi.json", key=None)).json
    summaries = {}
    for path, item in description["paths"].items():
        for method, operation in item.items():
            summary = operation["summary"]
            name = summary.lower().replace(" ", "_")
            assert not operation["operationId"].endswith(f"_{name}"), (method, path, summary)
            assert len(summary.split()) > 2, (method, path, summary)
            summaries[method, path] = summary
    assert summaries["get", "/api/notifications"] == "List notifications, newest first"
    assert summaries["get", "/demo/api/events"].startswith("List the published events")


async def test_requests_are_counted_by_route_and_not_by_path(call: Any) -> None:
    for name in ("a", "b"):
        await call("GET", f"/api/notifications/{name}")
    await call("GET", "/api/nowhere")
    text = (await call("GET", "/metrics", key=None)).body.decode()
    assert (
        'tidings_http_requests_total{method="GET",route="/api/notifications/{notification_id}",status="404"} 2.0'
        in text
    )
    assert 'route="none",status="404"' in text
    assert "nowhere" not in text


async def test_templates_are_listed(call: Any) -> None:
    items = {one["code"]: one for one in (await call("GET", "/api/templates")).json["items"]}
    assert items["EVENT_CANCELLATION"]["mandatory"] is True
    assert "de" in items["EVENT_TIME_CHANGE"]["locales"]
