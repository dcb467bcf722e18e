"""Suite for `ports.channel.Channel` and `channels.plugin.ChannelPlugin`: what the engine relies on in every channel."""

import asyncio
import logging
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from tidings.channels.plugin import ChannelPlugin
from tidings.config.settings import Settings
from tidings.model.contact_point import NO_CONTACT_POINT, ContactPoint
from tidings.model.delivery import OutboundMessage, Target
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import Channel, ComposeContext
from tidings.ports.clock import Clock
from tidings.testing.fake_providers import (
    AcceptMessage,
    Behaviour,
    HangConnection,
    LimitRate,
    LoseReply,
    RefuseMessage,
)
from tidings.testing.polling import eventually

CONTENT = RenderedMessage("Doors open at seven", "See you tonight.", "https://shop.example/events/7", "en")
#: seconds within which every attempt of the suite ends; channels under test have short deadlines
_ATTEMPT_SECONDS = 10.0
#: seconds until an attempt has reached a provider that hangs
_IN_FLIGHT_SECONDS = 10.0
_CONCURRENT_SENDS = 10


class ChannelHarness(ABC):
    """A channel with a fake of its provider behind it. One per test; the suite opens and closes the channel."""

    #: name of the channel's entry point
    name: ClassVar[str]
    #: an address that the plug-in takes; "" for a channel without contact points
    address: str = ""
    #: texts that are not addresses of the channel
    wrong_addresses: ClassVar[tuple[str, ...]] = ("", "\0")
    #: texts that no log record and no outcome may contain: credentials, and addresses that are credentials
    secrets: tuple[str, ...] = ()
    #: whether a message whose reply was lost is sent again. True: the receiving side recognises the repeat by its id
    repeats_lost: ClassVar[bool] = False
    #: whether a wait that the provider asks for spends an attempt. True: the attempts are spread over a long time
    limit_spends_attempt: ClassVar[bool] = False

    plugin: ChannelPlugin
    channel: Channel
    clock: Clock

    @property
    def settings(self) -> Settings:
        """The settings from which the plug-in reads its own ones."""
        return Settings()

    @abstractmethod
    def set_behaviour(self, behaviour: Behaviour) -> None:
        """Make the provider treat every further message like this."""

    @abstractmethod
    def count_accepted(self) -> int:
        """Return the number of messages that the provider took."""

    @abstractmethod
    def count_requests(self) -> int:
        """Return the number of messages that reached the provider, taken or not."""

    def create_target(self) -> Target:
        """Return the target of the messages."""
        return ContactPoint(
            "c-1" if self.plugin.traits.needs_contact_point else NO_CONTACT_POINT, "ana", self.name, self.address
        )

    def create_message(self, *, attempt: int = 1) -> OutboundMessage:
        """Return a message of a new delivery, which expires in an hour."""
        now = self.clock.now()
        expires_at = now + timedelta(hours=1)
        notification_id, delivery_id = new_id(now), new_id(now)
        context = ComposeContext(
            notification_id, delivery_id, "ana", Category("NEWS", "News"), notification_id, expires_at, "UTC"
        )
        payload = self.channel.compose(CONTENT, context)
        return OutboundMessage(
            delivery_id,
            notification_id,
            self.create_target(),
            payload,
            Priority.NORMAL,
            expires_at,
            attempt,
            notification_id,
        )

    async def send(self) -> Outcome:
        """Send one message."""
        return await self.channel.send(self.create_message())


class ChannelContract:
    """Provide a fixture `harness`: a `ChannelHarness` whose provider accepts messages. Its deadlines are below 10 s."""

    @pytest.fixture(autouse=True)
    async def _open_channel(self, harness: ChannelHarness) -> Any:
        await harness.channel.open()
        yield
        await harness.channel.close()

    def test_the_plug_in_declares_what_the_engine_knows(self, harness: ChannelHarness) -> None:
        traits = harness.plugin.traits
        assert harness.channel.name == harness.name
        assert traits.contact_noun.strip() == traits.contact_noun != ""
        assert traits.max_attempts >= 1
        assert traits.setting is None or traits.setting.startswith("TIDINGS_")
        assert traits.needs_contact_point is bool(harness.address)

    def test_an_address_has_one_form(self, harness: ChannelHarness) -> None:
        def parse(address: str) -> str:
            return harness.plugin.parse_address(address, harness.settings)

        if harness.address:
            assert parse(parse(harness.address)) == harness.address
        for wrong in harness.wrong_addresses:
            # the message says what an address must be
            with pytest.raises(ValueError, match=r"\w+ \w+"):
                parse(wrong)

    def test_a_payload_is_bytes_and_the_same_for_the_same_message(self, harness: ChannelHarness) -> None:
        context = ComposeContext(
            *("0" * 32, "1" * 32, "ana", Category("NEWS", "News"), "k", harness.clock.now() + timedelta(hours=1), "UTC")
        )
        first = harness.channel.compose(CONTENT, context)
        assert isinstance(first, bytes)
        assert first == harness.channel.compose(CONTENT, context)

    async def test_a_message_that_the_provider_takes_is_accepted(self, harness: ChannelHarness) -> None:
        outcome = await harness.send()
        assert isinstance(outcome, Accepted), outcome
        assert harness.count_accepted() == 1

    async def test_concurrent_messages_are_each_taken_once(self, harness: ChannelHarness) -> None:
        outcomes = await asyncio.gather(*(harness.send() for _ in range(_CONCURRENT_SENDS)))
        # a channel may pace a destination: what it defers was not sent
        accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
        deferred = [outcome for outcome in outcomes if isinstance(outcome, RetryLater)]
        assert len(accepted) == harness.count_accepted() >= 1
        assert len(accepted) + len(deferred) == _CONCURRENT_SENDS
        assert not any(outcome.counts_as_attempt for outcome in deferred)

    async def test_a_refusal_is_a_final_outcome(self, harness: ChannelHarness) -> None:
        harness.set_behaviour(RefuseMessage(0))
        outcome = await harness.send()
        assert isinstance(outcome, PermanentFailure | InvalidTarget), outcome
        assert outcome.why
        assert (harness.count_accepted(), harness.count_requests()) == (0, 1)

    async def test_a_limit_of_the_provider_defers_the_message(self, harness: ChannelHarness) -> None:
        harness.set_behaviour(LimitRate(30))
        outcome = await harness.send()
        assert isinstance(outcome, RetryLater), outcome
        assert outcome.counts_as_attempt is harness.limit_spends_attempt
        assert outcome.until > harness.clock.now()
        assert harness.count_accepted() == 0

    async def test_a_provider_that_hangs_ends_in_an_outcome(self, harness: ChannelHarness) -> None:
        harness.set_behaviour(HangConnection())
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            outcome = await harness.send()
        assert isinstance(outcome, RetryLater | Uncertain), outcome
        assert harness.count_accepted() == 0
        assert not any(secret in repr(outcome) for secret in harness.secrets)

    async def test_a_lost_reply_is_uncertain_or_the_repeat_is_recognised(self, harness: ChannelHarness) -> None:
        harness.set_behaviour(LoseReply())
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            outcome = await harness.send()
        assert isinstance(outcome, RetryLater if harness.repeats_lost else Uncertain), outcome
        assert harness.count_accepted() >= 1

    async def test_a_cancelled_send_ends_and_disturbs_no_later_one(self, harness: ChannelHarness) -> None:
        harness.set_behaviour(HangConnection())

        async def is_in_flight() -> bool:
            return harness.count_requests() > 0

        send = asyncio.create_task(harness.send())
        await eventually(is_in_flight, within=_IN_FLIGHT_SECONDS)
        send.cancel()
        with pytest.raises(asyncio.CancelledError):
            await send
        harness.set_behaviour(AcceptMessage())
        outcome = await harness.send()
        assert isinstance(outcome, Accepted), outcome

    async def test_no_secret_is_logged_or_part_of_an_outcome(
        self, harness: ChannelHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        shown: list[str] = []
        with capture_logs() as events:
            for behaviour in (AcceptMessage(), RefuseMessage(0), LoseReply(), LimitRate(30)):
                harness.set_behaviour(behaviour)
                shown.append(repr(await harness.send()))
        shown += [repr(event) for event in events]
        shown += [record.getMessage() for record in caplog.records]
        for secret in harness.secrets:
            assert [text for text in shown if secret in text] == []

    async def test_closing_may_be_repeated(self, harness: ChannelHarness) -> None:
        await harness.send()
        await harness.channel.close()
        await harness.channel.close()
