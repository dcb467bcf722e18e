"""Destinations: parses addresses, with apprise, and restricts them to four services and to one destination each.

apprise reads the addresses and nothing else: it reports only whether a message was sent, not what a service answered
(docs/decisions/0015-apprise-only-parses-addresses.md). A query can make apprise read files and fetch URLs, so unknown
parameters are refused before apprise sees them.
"""

import logging
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

#: characters of an address
MAX_ADDRESS = 1_000
INSTALL = "pip install 'tidings[chat]'"
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_DISCORD_ID, _DISCORD_TOKEN = re.compile(r"[0-9]{1,32}"), re.compile(r"[A-Za-z0-9_-]{1,200}")
_SLACK_CHANNEL = re.compile(r"[#@+]?[A-Za-z0-9_-]{1,80}")
_API_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?")
#: hosts of Microsoft's workflows
_TEAMS_HOST = re.compile(
    r"[a-z0-9.-]+\.(logic\.azure\.(com|us|cn)|(api\.)?(power|apps)platform\.(com|us|partner\.microsoftonline\.cn)"
    r"|(power|apps)platform\.microsoft\.us)"
)


class Service(StrEnum):
    """The supported services."""

    SLACK = "slack"
    TEAMS = "teams"
    DISCORD = "discord"
    TELEGRAM = "telegram"


class Destination(msgspec.Struct, frozen=True):
    """Where a message is posted."""

    service: Service
    #: the canonical address, a secret
    address: str
    #: path of the request, with secrets; for Teams the whole URL
    path: str
    #: the token of a Slack bot
    token: str | None = None
    #: the channel of a Slack bot, the chat of a Telegram bot
    channel: str | None = None
    #: the thread of a Discord channel, the topic of a Telegram chat
    thread: str | None = None
    #: the address without its secrets
    description: str = ""


#: scheme → service
_SCHEMES: Mapping[str, Service] = {
    "slack": Service.SLACK,
    "workflows": Service.TEAMS,
    "workflow": Service.TEAMS,
    "discord": Service.DISCORD,
    "tgram": Service.TELEGRAM,
}
_PARAMETERS: Mapping[Service, frozenset[str]] = {
    Service.SLACK: frozenset(),
    Service.TEAMS: frozenset({"api-version", "sp", "sv", "sig", "pa", "route", "ver"}),
    Service.DISCORD: frozenset({"thread"}),
    Service.TELEGRAM: frozenset({"topic", "thread"}),
}
_EXPECTED = (
    "must be slack://, workflows:// (Teams), discord:// or tgram:// (Telegram), or the webhook URL of Slack, Teams or "
    "Discord"
)


def load_apprise() -> Mapping[Service, Any]:
    """Return apprise's parsers of the services. Raises ImportError if apprise is not installed."""
    return _load_parsers()


@lru_cache(maxsize=1)
def _load_parsers() -> Mapping[Service, Any]:
    from apprise.plugins.discord import NotifyDiscord
    from apprise.plugins.slack import NotifySlack
    from apprise.plugins.telegram import NotifyTelegram
    from apprise.plugins.workflows import NotifyWorkflows

    # its warnings contain the tokens of the addresses that it rejects
    logging.getLogger("apprise").addFilter(lambda _record: False)
    return {
        Service.SLACK: NotifySlack,
        Service.TEAMS: NotifyWorkflows,
        Service.DISCORD: NotifyDiscord,
        Service.TELEGRAM: NotifyTelegram,
    }


@lru_cache(maxsize=10_000)
def parse_destination(address: str, trusted_teams_hosts: frozenset[str] = frozenset()) -> Destination:
    """Return the destination of an address.

    trusted_teams_hosts: further hosts of Teams workflows, `host[:port]`. Raises ValueError with what the address must
    be; the message contains nothing of it. Raises ImportError if apprise is not installed.
    """
    if len(address) > MAX_ADDRESS:
        raise ValueError(f"must have at most {MAX_ADDRESS} characters")
    if not _CHARACTERS.fullmatch(address):
        raise ValueError("must be a plain ASCII URL without blanks, quotes or backslashes")
    scheme, _, rest = address.partition("://")
    if scheme.lower() == "https":
        return _parse_native(address, trusted_teams_hosts)
    if scheme.lower() == "msteams":
        raise ValueError("connectors of Teams were retired; create a workflow and use its URL or workflows://")
    service = _SCHEMES.get(scheme.lower())
    if service is None or not rest:
        raise ValueError(_EXPECTED)
    # a channel such as #general is not a fragment
    url = f"{scheme.lower()}://{rest.replace('#', '%23')}"
    _check_parameters(service, url)
    return _build(service, load_apprise()[service].parse_url(url), trusted_teams_hosts)


def _parse_native(address: str, trusted_teams_hosts: frozenset[str]) -> Destination:
    """Return the destination of a URL that a service shows to its users."""
    for service, parser in load_apprise().items():
        parse = getattr(parser, "parse_native_url", None)
        if parse is not None and (found := parse(address)):
            _check_parameters(service, address)
            return _build(service, found, trusted_teams_hosts)
    raise ValueError(_EXPECTED)


def _check_parameters(service: Service, url: str) -> None:
    allowed = _PARAMETERS[service]
    unknown = [name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True) if name not in allowed]
    if unknown:
        shown = ", ".join(sorted(allowed)) or "none"
        raise ValueError(f"has a parameter that is not supported; {service} supports: {shown}")


def _build(service: Service, found: Mapping[str, Any] | None, trusted_teams_hosts: frozenset[str]) -> Destination:
    if not found:
        raise ValueError(_EXPECTED)
    try:
        notifier = load_apprise()[service](**found)
    except TypeError:
        # apprise raises a subclass of it, whose message contains the tokens
        raise ValueError(f"is not a complete address of {service}; docs/howto/chat.md shows one") from None
    match service:
        case Service.SLACK:
            return _build_slack(notifier, found)
        case Service.DISCORD:
            return _build_discord(notifier)
        case Service.TELEGRAM:
            return _build_telegram(notifier, found)
        case Service.TEAMS:
            return _build_teams(notifier, trusted_teams_hosts)


def _build_slack(notifier: Any, found: Mapping[str, Any]) -> Destination:
    # apprise adds a default channel to a bot without one
    targets = found["targets"]
    if notifier.mode == "hook":
        if targets:
            raise ValueError("names a channel, but a webhook of Slack posts to its own channel; leave the channel out")
        path = f"/services/{notifier.token_a}/{notifier.token_b}/{notifier.token_c}"
        address = f"slack://{notifier.token_a}/{notifier.token_b}/{notifier.token_c}"
        return Destination(Service.SLACK, address, path, description=f"slack://{notifier.token_a}/…")
    if notifier.mode != "bot":
        raise ValueError("must be an incoming webhook or a bot of Slack")
    if len(targets) != 1 or not _SLACK_CHANNEL.fullmatch(targets[0]):
        raise ValueError("must name one channel, such as slack://xoxb-…/%23alerts")
    channel = targets[0] if targets[0][0] in "#@+" else f"#{targets[0]}"
    quoted = channel.replace("#", "%23").replace("+", "%2B")
    return Destination(
        Service.SLACK,
        f"slack://{notifier.access_token}/{quoted}",
        "/api/chat.postMessage",
        token=notifier.access_token,
        # a leading + marks the id of a channel
        channel=channel.removeprefix("+"),
        description=f"slack://…/{channel}",
    )


def _build_discord(notifier: Any) -> Destination:
    webhook, token = notifier.webhook_id, notifier.webhook_token
    thread = notifier.thread_id
    if not _DISCORD_ID.fullmatch(webhook) or not _DISCORD_TOKEN.fullmatch(token or ""):
        raise ValueError("must be discord://WEBHOOK_ID/WEBHOOK_TOKEN")
    if thread is not None and not _DISCORD_ID.fullmatch(thread):
        raise ValueError("must name a thread by its id")
    query = f"?thread={thread}" if thread else ""
    return Destination(
        Service.DISCORD,
        f"discord://{webhook}/{token}{query}",
        f"/api/webhooks/{webhook}/{token}",
        thread=thread,
        description=f"discord://{webhook}/…",
    )


def _build_telegram(notifier: Any, found: Mapping[str, Any]) -> Destination:
    if len(found["targets"]) != 1 or len(notifier.targets) != 1:
        raise ValueError("must name one chat, such as tgram://123456:TOKEN/-100123456")
    [(chat, topic)] = notifier.targets
    token = notifier.bot_token
    query = f"?topic={topic}" if topic else ""
    return Destination(
        Service.TELEGRAM,
        f"tgram://{token}/{chat}{query}",
        f"/bot{token}/sendMessage",
        channel=str(chat),
        thread=str(topic) if topic else None,
        description=f"tgram://{token.partition(':')[0]}:…/{chat}",
    )


def _build_teams(notifier: Any, trusted_hosts: frozenset[str]) -> Destination:
    host = str(notifier.host).lower()
    authority = f"{host}:{notifier.port}" if notifier.port and notifier.port != 443 else host
    if authority not in trusted_hosts and (authority != host or not _TEAMS_HOST.fullmatch(host)):
        raise ValueError("must have a host of Microsoft, such as prod-01.westeurope.logic.azure.com")
    if not _API_VERSION.fullmatch(notifier.api_version):
        raise ValueError("has an api-version that is not a date")
    folder = "/powerautomate/automations/direct" if notifier.power_automate else ""
    if folder and notifier.routing_id:
        folder += f"/cu/{notifier.routing_id}"
    workflow, signature = notifier.workflow, notifier.signature
    url = (
        f"https://{authority}{folder}/workflows/{workflow}/triggers/manual/paths/invoke"
        f"?api-version={notifier.api_version}&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={signature}"
    )
    options = {"pa": "yes"} if notifier.power_automate else {}
    if notifier.routing_id:
        options["route"] = notifier.routing_id
    query = "".join(f"&{name}={value}" for name, value in {**options, "ver": notifier.api_version}.items())
    return Destination(
        Service.TEAMS,
        f"workflows://{authority}/{workflow}/{signature}?{query.removeprefix('&')}",
        url,
        description=f"workflows://{authority}/…",
    )


def describe_destination(address: str) -> str:
    """Return an address without its secrets, also if it is invalid or apprise is not installed."""
    try:
        return parse_destination(address).description
    except (ValueError, ImportError):
        return f"{address.partition(':')[0][:20]}://…"
