"""An opt-out takes effect for everything that was not handed to a provider before: rule C23."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.conftest import Process

from tidings.flow.recover.dead_letter_replay import ReplayRate, replay_page
from tidings.model.audience import users
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Outcome, PermanentFailure, RetryLater
from tidings.model.preference import ANY, Condition, Operator, Preference
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest
from tidings.ports.operations import DeadLetterFilter

HOUR = timedelta(hours=1)
#: the entries with which a user may opt out
OPT_OUTS = {
    "category and channel": Preference("NEWS", "webpush", False),
    "category": Preference("NEWS", ANY, False),
    "channel": Preference(ANY, "webpush", False),
    "everything": Preference(ANY, ANY, False),
    "object": Preference(ANY, ANY, False, "event:9"),
    "condition": Preference("NEWS", ANY, True, condition=Condition("title", Operator.EQUAL, "Goodbye")),
}


@pytest.fixture(params=OPT_OUTS)
def opt_out(request: pytest.FixtureRequest) -> Preference:
    return OPT_OUTS[request.param]


@pytest.fixture
async def process(process: Process) -> Process:
    """A process with the users ana and ben."""
    await process.add_users("ana", "ben")
    return process


def build_request(process: Process) -> NotifyRequest:
    return replace(process.build_request(users("ana", "ben")), subject=SubjectRequest("event:9/message:1"))


async def store_choice(process: Process, entry: Preference) -> None:
    async with process.store.transaction() as tx:
        await process.store.users.set_preferences(tx, "ana", [entry])


async def process_later(process: Process) -> None:
    """Process what is due after an hour."""
    process.clock.advance(HOUR)
    await process.pipeline.batch_due()
    await process.process_queue()


def respond_once(process: Process, outcome: Outcome) -> None:
    """Let the provider answer each user's first message with an outcome."""
    answered: set[str] = set()
    default = process.channel.respond

    def respond(message: OutboundMessage) -> Outcome:
        if message.target.user_id in answered:
            return default(message)
        answered.add(message.target.user_id)
        return outcome

    process.channel.respond = respond


def list_sent(process: Process) -> list[str]:
    return sorted(message.target.user_id for message in process.channel.sent)


async def test_c23_an_opt_out_stops_what_is_delayed(process: Process, opt_out: Preference) -> None:
    request = replace(build_request(process), send_at=process.clock.now() + HOUR)
    notification = await process.pipeline.submit(request)
    await store_choice(process, opt_out)
    process.clock.advance(HOUR)
    await process.plan(notification)
    await process.process_queue()
    assert list_sent(process) == ["ben"]


async def test_c23_an_opt_out_stops_what_is_planned(process: Process, opt_out: Preference) -> None:
    notification = await process.pipeline.submit(build_request(process))
    await process.plan(notification)
    await store_choice(process, opt_out)
    await process.process_queue()
    assert list_sent(process) == ["ben"]
    assert await process.count_by_state(notification) == {"skipped": 1, "delivered": 1}


async def test_c23_an_opt_out_stops_what_is_retried(process: Process, opt_out: Preference) -> None:
    respond_once(process, RetryLater(process.clock.now() + timedelta(minutes=1), "busy"))
    notification = await process.pipeline.submit(build_request(process))
    await process.plan(notification)
    await process.process_queue()
    await store_choice(process, opt_out)
    await process_later(process)
    assert list_sent(process) == ["ana", "ben", "ben"]
    assert await process.count_by_state(notification) == {"skipped": 1, "delivered": 1}


async def test_c23_an_opt_out_stops_what_is_replayed(process: Process, opt_out: Preference) -> None:
    respond_once(process, PermanentFailure("bad key", status=403))
    notification = await process.pipeline.submit(build_request(process))
    await process.plan(notification)
    await process.process_queue()
    await store_choice(process, opt_out)
    async with process.store.transaction() as tx:
        replayed = await replay_page(
            process.store, tx, DeadLetterFilter(), rate=ReplayRate(100), limit=10, now=process.clock.now()
        )
    assert replayed.count == 2
    await process_later(process)
    assert list_sent(process) == ["ana", "ben", "ben"]
    assert await process.count_by_state(notification) == {"skipped": 1, "delivered": 1}
