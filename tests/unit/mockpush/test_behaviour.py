"""Configured responses, by path and by rules set at run time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tidings.errors import ValidationFailed
from tidings.mockpush import MockPush, MockPushOptions, ResponseRule
from tidings.mockpush.behaviour import Behaviour, parse_spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.unit.mockpush.conftest import HttpClient, Sender


@pytest.mark.parametrize("status", [404, 410, 413, 429, 500, 503])
async def test_a_path_sets_the_status(status: int, push: MockPush, client: HttpClient, sender: Sender) -> None:
    assert (await client.send(sender.push(), f"!{status}/")).status == status
    assert push.stats().accepted == 0


async def test_a_path_sets_retry_after(client: HttpClient, sender: Sender) -> None:
    answer = await client.send(sender.push(), "!429;retry-after=3/")
    assert answer.headers["retry-after"] == "3"


async def test_a_behaviour_ends_for_each_device_separately(client: HttpClient, sender: Sender) -> None:
    statuses = [(await client.send(sender.push(device), "!503;times=2/")).status for device in ("a", "a", "a", "b")]
    assert statuses == [503, 503, 201, 503]


@pytest.mark.parametrize("spec", ["", "999", "100", "nap", "429;retry-after=%0d%0aX: 1", "times=x"])
async def test_an_unknown_behaviour_is_refused(spec: str, client: HttpClient, sender: Sender) -> None:
    answer = await client.send(sender.push(), f"!{spec.replace(' ', '%20')}/")
    assert (answer.status, answer.reason) == (400, "behaviour")


async def test_rules_are_set_and_removed_over_the_control_api(client: HttpClient, sender: Sender) -> None:
    rules = {
        "rules": [{"device": "u1-1", "status": 410, "headers": {"X-WNS-Status": "dropped"}, "body": {"errno": 103}}]
    }
    assert (await client.call("PUT", "/control/behaviour", body=json.dumps(rules).encode())).status == 204
    gone = await client.send(sender.push("u1-1"))
    assert (gone.status, gone.headers["x-wns-status"], json.loads(gone.body)) == (410, "dropped", {"errno": 103})
    assert (await client.send(sender.push("u2-1"))).status == 201
    assert (await client.call("DELETE", "/control/behaviour")).status == 204
    assert (await client.send(sender.push("u1-1"))).status == 201


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"rules": [{"status": 99}]}',
        b'{"rules": [{"colour": "red"}]}',
        b'{"rules": [{"share": 0.6}, {"share": 0.6}]}',
        b'{"rules": [{"headers": {"X": "a\\r\\nB: c"}}]}',
    ],
)
async def test_wrong_rules_are_refused_and_change_nothing(body: bytes, client: HttpClient, sender: Sender) -> None:
    assert (await client.call("PUT", "/control/behaviour", body=body)).status == 400
    assert (await client.send(sender.push())).status == 201


def test_shares_are_kept_do_not_overlap_and_are_the_same_every_time() -> None:
    behaviour = Behaviour()
    behaviour.set_rules(
        [ResponseRule(status=429, share=0.2), ResponseRule(hang=True, share=0.1), ResponseRule(delay_ms=5)]
    )
    found = [behaviour.find(f"u{n}-1") for n in range(5000)]
    assert 900 < sum(rule is not None and rule.status == 429 for rule in found) < 1100
    assert 400 < sum(rule is not None and rule.hang for rule in found) < 600
    assert all(rule is not None for rule in found)
    assert found == [behaviour.find(f"u{n}-1") for n in range(5000)]


def test_a_path_can_combine_behaviours() -> None:
    assert parse_spec("503;retry-after=2;delay-ms=10;times=1") == ResponseRule(
        status=503, retry_after="2", delay_ms=10, times=1
    )


def test_a_rule_with_a_line_break_in_a_header_is_rejected() -> None:
    with pytest.raises(ValidationFailed):
        Behaviour().set_rules([ResponseRule(status=429, retry_after="1\r\nX: y")])


async def test_a_hanging_answer_ends_when_the_client_leaves(push: MockPush, client: HttpClient, sender: Sender) -> None:
    message = sender.push()
    client.write("POST", "/push/!hang/u1-1", message.headers, message.body)
    await push.wait_for(received=1)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(tasks) == 1
    client.writer.close()
    await asyncio.wait(tasks, timeout=5)
    assert all(task.done() for task in tasks)
    assert push.stats().by_status == {"hang": 1}


async def test_a_push_with_a_lost_response_was_accepted(push: MockPush, client: HttpClient, sender: Sender) -> None:
    message = sender.push()
    client.write("POST", "/push/!lost/u1-1", message.headers, message.body)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.read()
    assert (push.stats().accepted, push.stats().by_status) == (1, {"lost": 1})


async def test_a_dripping_answer_comes_byte_by_byte(
    connect: Callable[[str], Awaitable[HttpClient]], sender: Sender
) -> None:
    async with MockPush(MockPushOptions(drip_seconds=0.001)) as push:
        client = await connect(push.origin)
        message = type(sender)(push.origin).push()
        client.write("POST", "/push/!drip/u1-1", message.headers, message.body)
        assert len(await client.reader.read(1000)) < 60
        assert (await push.wait_for(accepted=1)).accepted == 1


async def test_a_delayed_answer_keeps_its_place_among_pipelined_ones(client: HttpClient, sender: Sender) -> None:
    message = sender.push()
    client.write("POST", "/push/!201;delay-ms=30/u1-1", message.headers, message.body)
    client.write("POST", "/push/!404/u1-1", message.headers, message.body)
    client.write("POST", "/push/u1-1", message.headers, message.body)
    assert [(await client.read()).status for _ in range(3)] == [201, 404, 201]
