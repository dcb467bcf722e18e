"""Answers on demand, by path and by rules set at run time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tidings.errors import Invalid
from tidings.testing.mock_push import MockPush, MockPushOptions, Rule
from tidings.testing.mock_push.behaviour import Behaviour, parse_spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.unit.mock_push.conftest import HttpClient, Sender


@pytest.mark.parametrize("status", [404, 410, 413, 429, 500, 503])
async def test_a_path_asks_for_a_status(status: int, push: MockPush, client: HttpClient, sender: Sender) -> None:
    assert (await client.send(sender.push(), f"!{status}/")).status == status
    assert push.stats().accepted == 0


async def test_a_path_asks_for_retry_after(client: HttpClient, sender: Sender) -> None:
    answer = await client.send(sender.push(), "!429;retry-after=3/")
    assert answer.headers["retry-after"] == "3"


async def test_a_behaviour_runs_out_for_each_device_on_its_own(client: HttpClient, sender: Sender) -> None:
    statuses = [(await client.send(sender.push(device), "!503;times=2/")).status for device in ("a", "a", "a", "b")]
    assert statuses == [503, 503, 201, 503]


@pytest.mark.parametrize("spec", ["", "999", "100", "nap", "429;retry-after=%0d%0aX: 1", "times=x"])
async def test_an_unknown_behaviour_is_refused(spec: str, client: HttpClient, sender: Sender) -> None:
    answer = await client.send(sender.push(), f"!{spec.replace(' ', '%20')}/")
    assert (answer.status, answer.reason) == (400, "behaviour")


async def test_rules_come_over_the_control_api_and_go_again(client: HttpClient, sender: Sender) -> None:
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
    behaviour.set_rules([Rule(status=429, share=0.2), Rule(hang=True, share=0.1), Rule(delay_ms=5)])
    found = [behaviour.find(f"u{n}-1") for n in range(5000)]
    assert 900 < sum(rule is not None and rule.status == 429 for rule in found) < 1100
    assert 400 < sum(rule is not None and rule.hang for rule in found) < 600
    assert all(rule is not None for rule in found)
    assert found == [behaviour.find(f"u{n}-1") for n in range(5000)]


def test_a_path_can_combine_words() -> None:
    assert parse_spec("503;retry-after=2;delay-ms=10;times=1") == Rule(
        status=503, retry_after="2", delay_ms=10, times=1
    )


def test_a_rule_that_would_split_the_head_is_refused() -> None:
    with pytest.raises(Invalid):
        Behaviour().set_rules([Rule(status=429, retry_after="1\r\nX: y")])


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


async def test_a_lost_reply_was_accepted_all_the_same(push: MockPush, client: HttpClient, sender: Sender) -> None:
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
