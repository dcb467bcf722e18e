"""A test message over one channel, to see that a provider takes it. No notification is stored."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from tidings.channels.plugin import ChannelPlugin, HasSecrets
from tidings.config.settings import Settings
from tidings.errors import Conflict, NotFound, ValidationFailed
from tidings.model.contact_point import NO_CONTACT_POINT, ContactPoint
from tidings.model.delivery import OutboundMessage
from tidings.model.ids import new_id
from tidings.model.outcome import Outcome
from tidings.model.priority import Priority
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import Channel, ComposeContext
from tidings.ports.clock import Clock

#: a test message is worthless later
_LIFETIME: Final = timedelta(minutes=10)
#: the channel whose addresses are subscriptions of browsers, which nobody can type
_WITHOUT_ADDRESSES: Final = "webpush"
#: mandatory: a test has no user who could unsubscribe
_CATEGORY: Final = Category("TEST", "Test messages", mandatory=True)


async def send_test_message(
    name: str,
    address: str,
    *,
    plugins: Mapping[str, ChannelPlugin],
    channels: Mapping[str, Channel],
    clock: Clock,
    settings: Settings,
) -> Outcome:
    """Send a test message and return what the provider answered.

    Arguments: name — of the channel; address — or a user id, for a channel without contact points; plugins — the
    installed channels; channels — the configured ones; settings — also for the link in the message. Raises NotFound for
    an unknown channel, Conflict naming the setting if it is not configured, ValidationFailed for the address.
    """
    plugin = plugins.get(name)
    if plugin is None or name == _WITHOUT_ADDRESSES:
        known = ", ".join(sorted(set(plugins) - {_WITHOUT_ADDRESSES}))
        raise NotFound(f"There is no such channel for test messages; there are: {known}", code="unknown_channel")
    channel = channels.get(name)
    if channel is None:
        raise Conflict(f"The channel is not configured; set {plugin.traits.setting}.", code="channel_not_set_up")
    target = _build_target(name, plugin, address, settings)
    now = clock.now()
    expires_at, message_id = now + _LIFETIME, new_id(now)
    content = RenderedMessage(
        "Test message", "Tidings can send messages over this channel.", settings.frontend_url, "en"
    )
    context = ComposeContext(message_id, message_id, target.user_id, _CATEGORY, message_id, expires_at, "UTC")
    payload = channel.compose(content, context)
    # opening twice changes nothing; a process that only serves the API has not opened it
    await channel.open()
    return await channel.send(
        OutboundMessage(message_id, message_id, target, payload, Priority.URGENT, expires_at, 1, message_id)
    )


def _build_target(name: str, plugin: ChannelPlugin, address: str, settings: Settings) -> ContactPoint:
    if not plugin.traits.needs_contact_point:
        return ContactPoint(NO_CONTACT_POINT, address, name, "")
    try:
        parsed = plugin.parse_address(address, settings)
    except ValueError as error:
        raise ValidationFailed.for_field("address", str(error)) from error
    # a receiver that checks signatures refuses a new secret, and its answer is the result of the test
    secrets = plugin.create_secrets() if isinstance(plugin, HasSecrets) else ()
    return ContactPoint(NO_CONTACT_POINT, "", name, parsed, secrets=secrets)
