"""The checks of `tidings doctor`: apprise is installed, the base URLs are valid, and own servers can be reached."""

from collections.abc import Sequence

from tidings.channels.chat.settings import PREFIX, ChatSettings, create_chat_channel
from tidings.channels.http.exchange import HttpResponse
from tidings.model.check import CheckResult
from tidings.ports.clock import Clock


async def check_chat(settings: ChatSettings, clock: Clock) -> Sequence[CheckResult]:
    """Check the configuration of the enabled channel. Nothing is sent to Slack, Discord or Telegram themselves.

    Raises ConfigError naming the setting and the fix.
    """
    channel = create_chat_channel(settings, clock)
    assert channel is not None, "the channel is enabled"
    own = [
        name
        for name in ("slack", "slack_hooks", "discord", "telegram")
        if getattr(settings, f"{name}_url") != ChatSettings.model_fields[f"{name}_url"].default
    ]
    results = []
    try:
        await channel.open()
        for name in own:
            setting = f"{PREFIX}{name.upper()}_URL"
            exchange = await channel.probe(name)
            if isinstance(exchange, HttpResponse):
                message = f"the server of {name} can be reached (it answered {exchange.status})"
                results.append(CheckResult("ok", setting, message))
            else:
                results.append(CheckResult("problem", setting, f"{exchange.why}; correct it, or start the server"))
    finally:
        await channel.close()
    hosts = [host for name, host in _PUBLIC_HOSTS.items() if name not in own]
    if settings.trusted_hosts:
        hosts.append(f"workflows of Teams also on {', '.join(settings.trusted_hosts)}")
    if hosts:
        results.append(CheckResult("ok", "chat services", f"posts to {', '.join(hosts)}"))
    return results


_PUBLIC_HOSTS = {
    "slack": "slack.com",
    "slack_hooks": "hooks.slack.com",
    "discord": "discord.com",
    "telegram": "api.telegram.org",
}
