"""Domain events over HTTP: CloudEvents in both modes, matched to triggers of a file."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.support.server import TidingsServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
TRIGGERS = """
[[trigger]]
event_type = "com.example.ticket.sold"
template = "MESSAGE"
audience = { kind = "users", userIds = ["=data.user"] }
variables = { title = "'Ticket ' ~ data.number", body = "data.note | default('Enjoy!')" }
condition = "data.price > 0"
subject = "'ticket:' ~ data.number"
"""
EVENT: Json = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/box-office",
    "type": "com.example.ticket.sold",
    "data": {"user": "ana", "number": 7, "price": 12.5},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    file = tmp_path_factory.mktemp("triggers") / "triggers.toml"
    file.write_text(TRIGGERS)
    return {"TIDINGS_INAPP__ENABLED": "true", "TIDINGS_TRIGGERS_FILE": str(file)}


@pytest.fixture(autouse=True)
async def user(server: TidingsServer) -> None:
    await server.call("PUT", "/api/users/ana", {})


async def publish(server: TidingsServer, status: int, body: Json | None, **headers: str) -> Json:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await server.expect(status, "POST", "/api/domain-events", body, headers=named)
    return response.read(Json)


async def test_a_structured_event_notifies_by_its_trigger_and_only_once(server: TidingsServer) -> None:
    caused = await publish(server, 202, EVENT, content_type="application/cloudevents+json")
    [accepted] = caused["notifications"]
    assert (caused["matched"], accepted["templateCode"]) == (1, "MESSAGE")
    assert (await server.wait_until_finished(accepted["id"])).by_state == {"delivered": 1}
    feed = (await server.expect(200, "GET", "/api/inbox", token=server.user_token("ana"))).read(Json)["items"]
    assert [(item["title"], item["body"]) for item in feed] == [("Ticket 7", "Enjoy!")]
    again = {**EVENT, "data": {"user": "ana", "number": 8, "price": 1}}
    assert await publish(server, 202, again, content_type="application/cloudevents+json") == caused


async def test_a_binary_event_has_its_attributes_in_headers(server: TidingsServer) -> None:
    attributes: dict[str, str] = {
        "ce_specversion": "1.0",
        "ce_id": "e-2",
        "ce_source": "/box%20office",
        "ce_type": EVENT["type"],
    }
    caused = await publish(server, 202, {"user": "ana", "number": 9, "price": 1, "note": "Row 3"}, **attributes)
    assert len(caused["notifications"]) == 1
    wrong = await publish(server, 422, {"user": "ana"}, **{**attributes, "ce_specversion": "0.3"})
    assert wrong["errors"][0]["field"] == "ce-specversion"


async def test_an_event_without_a_trigger_or_whose_condition_is_false_causes_nothing(server: TidingsServer) -> None:
    free = {**EVENT, "id": "e-3", "data": {"user": "ana", "number": 1, "price": 0}}
    assert await publish(server, 202, free) == {
        "matched": 1,
        "cancelledSteps": 0,
        "notifications": [],
    }
    unknown = {**EVENT, "id": "e-4", "type": "com.example.unknown"}
    assert await publish(server, 202, unknown) == {"matched": 0, "cancelledSteps": 0, "notifications": []}


async def test_an_event_without_a_field_of_an_expression_is_refused_and_can_be_sent_again(
    server: TidingsServer,
) -> None:
    incomplete = {**EVENT, "id": "e-5", "data": {"user": "ana", "price": 2}}
    problem = await publish(server, 422, incomplete)
    assert problem["errors"][0]["field"] == "data"
    assert "data.number" in problem["errors"][0]["message"]
    complete = {**EVENT, "id": "e-5"}
    assert len((await publish(server, 202, complete))["notifications"]) == 1
    stranger = {**EVENT, "id": "e-6", "data": {"user": "nobody", "number": 1, "price": 1}}
    assert "no such user" in str(await publish(server, 422, stranger))


async def test_attributes_that_are_missing_are_named(server: TidingsServer) -> None:
    problem = await publish(server, 422, {"specversion": "1.0", "id": "e-7", "type": "x"})
    assert [error["field"] for error in problem["errors"]] == ["source"]


async def test_a_batch_has_a_result_per_event_and_can_be_sent_again(server: TidingsServer) -> None:
    batch = [
        {**EVENT, "id": "b-1"},
        {**EVENT, "id": "b-2", "data": {"user": "ana", "price": 2}},
        {"specversion": "1.0", "id": "b-3", "type": "x"},
        {**EVENT, "id": "b-4", "type": "com.example.unknown"},
        {"specversion": "1.0", "id": "b-5", "source": "/x", "type": "x", "data_base64": "é"},
    ]
    headers = {"content-type": "application/cloudevents-batch+json"}

    async def send(body: object) -> list[Json]:
        results: list[Json] = (await server.expect(202, "POST", "/api/domain-events", body, headers=headers)).read(
            Json
        )["results"]
        return results

    sold, incomplete, invalid, unknown, garbled = first = await send(batch)
    assert (sold["matched"], len(sold["notifications"])) == (1, 1)
    assert [one["error"]["errors"][0]["field"] for one in (incomplete, invalid, garbled)] == [
        "data",
        "source",
        "data_base64",
    ]
    assert unknown == {"matched": 0, "cancelledSteps": 0, "notifications": []}
    assert await send(batch) == first
    assert await send([]) == []
    await server.expect(422, "POST", "/api/domain-events", {}, headers=headers)
