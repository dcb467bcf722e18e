"""Unknown query parameters are rejected on every route of the API, and ignored on pages that browsers open."""

from tests.support.asgi_client import Client

from tidings.channels.email.composer import UNSUBSCRIBE_PATH
from tidings.channels.email.unsubscribe import Unsubscription, sign_unsubscription


async def test_an_unknown_parameter_is_named_on_every_route_of_the_api(call: Client) -> None:
    description = (await call("GET", "/openapi.json", key=None)).json
    routes = [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, operations in description["paths"].items()
        if path.startswith("/api/")
        for method, operation in operations.items()
        # the check of a body comes first
        if "requestBody" not in operation
    ]
    assert len(routes) > 60
    for method, path in routes:
        reply = await call(method, f"{path}?x=1")
        assert reply.status == 422, (method, path, reply.body)
        assert [error["field"] for error in reply.json["errors"]] == ["x"], (method, path)
    body = {"definition": {"kind": "everyone"}}
    assert (await call("PUT", "/api/audiences/all?x=1", json=body)).json["errors"][0]["field"] == "x"
    none_known = (await call("GET", "/api/templates?x=1")).json
    assert none_known["errors"] == [{"field": "x", "message": "is not a known parameter; known are: none"}]


async def test_pages_that_browsers_open_ignore_parameters_that_others_add(call: Client) -> None:
    token = sign_unsubscription(call.runtime.settings.secret_key, Unsubscription("u1", "NEW_EVENT"))
    for path in (UNSUBSCRIBE_PATH + token, "/health/live", "/openapi.json"):
        assert (await call("GET", f"{path}?utm_source=mail", key=None)).status == 200, path
