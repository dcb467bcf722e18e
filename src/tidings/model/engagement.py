"""Opens and clicks of a message, counted apart by people and by machines. Pure.

Mail servers open messages and follow their links before a person does, to scan them or to hide the person's address
(Apple Mail Privacy Protection, Gmail's image proxy). A count that mixes both says nothing, so a request that may come
from a machine counts as one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from tidings.model.receipt import EventCause, Receipt

#: requests so soon after the message was sent come from a server that checks it
MIN_READING_TIME: Final = timedelta(seconds=10)
#: a person does not follow every link of a message within this time
BURST_WINDOW: Final = timedelta(seconds=5)
#: proxies that load the images of every message: Apple sends this text alone, the others name themselves
_PROXY_AGENTS: Final = re.compile(r"Mozilla/5\.0|.*(GoogleImageProxy|ggpht\.com|YahooMailProxy).*", re.IGNORECASE)
#: security scanners, crawlers, link previews, and HTTP libraries
_SCANNER_AGENTS: Final = re.compile(
    r"bot\b|crawl|spider|scan|preview|headless|proofpoint|mimecast|barracuda|safelinks|trendmicro|symantec|fireeye"
    r"|forcepoint|sophos|fortiguard|zscaler|facebookexternalhit|curl/|wget/|python-|aiohttp|httpx|okhttp|go-http"
    r"|java/|libwww|node-fetch|axios|urllib",
    re.IGNORECASE,
)
_LINK_NUMBER: Final = re.compile(r"link (\d+) of (\d+)")


class MachineReason(StrEnum):
    """Why a request counts as that of a machine."""

    HEAD_REQUEST = "head_request"
    #: the client says that it loads ahead
    PREFETCH = "prefetch"
    MAIL_PROXY = "mail_proxy"
    SCANNER_AGENT = "scanner_agent"
    #: less than ten seconds after the message was sent
    TOO_SOON = "too_soon"


class MailRequest(msgspec.Struct, frozen=True):
    """What is known of the request of an image or a link in a message."""

    method: str
    #: header `User-Agent`
    agent: str
    #: header `Sec-Purpose` or `Purpose`
    purpose: str
    #: since the message was sent
    elapsed: timedelta


@dataclass(frozen=True, slots=True)
class Engagement:
    """Opens and clicks of one delivery. Repeats within a period count once."""

    human_opens: int = 0
    machine_opens: int = 0
    human_clicks: int = 0
    machine_clicks: int = 0


def find_machine_reason(request: MailRequest) -> MachineReason | None:
    """Return why a request counts as that of a machine, None for one that may be a person's."""
    agent = request.agent.strip()
    if request.method == "HEAD":
        return MachineReason.HEAD_REQUEST
    if re.search(r"prefetch|preview|prerender", request.purpose, re.IGNORECASE):
        return MachineReason.PREFETCH
    if _PROXY_AGENTS.fullmatch(agent):
        return MachineReason.MAIL_PROXY
    if not agent or _SCANNER_AGENTS.search(agent):
        return MachineReason.SCANNER_AGENT
    if request.elapsed < MIN_READING_TIME:
        return MachineReason.TOO_SOON
    return None


def format_link_number(number: int, total: int) -> str:
    """Return the code of a click: which of the links of the message it was."""
    return f"link {number} of {total}"


def compute_engagement(receipts: Iterable[Receipt]) -> Engagement | None:
    """Return the opens and clicks that the events of a delivery say, None without any. Their order changes nothing."""
    events = [receipt for receipt in receipts if receipt.cause in _ENGAGEMENT_CAUSES]
    if not events:
        return None
    counts = {cause: sum(event.cause is cause for event in events) for cause in _ENGAGEMENT_CAUSES}
    scanned = len(_find_scans([event for event in events if event.cause is EventCause.CLICK]))
    return Engagement(
        human_opens=counts[EventCause.OPEN],
        machine_opens=counts[EventCause.MACHINE_OPEN],
        human_clicks=counts[EventCause.CLICK] - scanned,
        machine_clicks=counts[EventCause.MACHINE_CLICK] + scanned,
    )


def has_human_click(receipts: Iterable[Receipt], now: datetime) -> bool:
    """Return whether a person followed a link. A click on one of several links counts once it cannot be a scan."""
    clicks = [receipt for receipt in receipts if receipt.cause is EventCause.CLICK]
    scans = _find_scans(clicks)
    return any(
        click.id not in scans and (is_only_link(click.code) or click.occurred_at <= now - BURST_WINDOW)
        for click in clicks
    )


def is_only_link(code: str | None) -> bool:
    """Return whether a message has one target only, by the code of a click: it cannot be the first of a scan."""
    found = _LINK_NUMBER.fullmatch(code or "")
    return found is None or int(found[2]) == 1


_ENGAGEMENT_CAUSES: Final = (
    EventCause.OPEN,
    EventCause.MACHINE_OPEN,
    EventCause.CLICK,
    EventCause.MACHINE_CLICK,
)


def _find_scans(clicks: Sequence[Receipt]) -> set[str]:
    """Return the ids of clicks within seconds on every link of a message that has several."""
    numbered = [
        (click, int(found[1]), int(found[2]))
        for click in clicks
        if (found := _LINK_NUMBER.fullmatch(click.code or "")) is not None
    ]
    scans: set[str] = set()
    for first, _, total in numbered:
        burst = [
            (click.id, number) for click, number, _ in numbered if _is_in_burst(first.occurred_at, click.occurred_at)
        ]
        if total > 1 and len({number for _, number in burst}) == total:
            scans.update(click_id for click_id, _ in burst)
    return scans


def _is_in_burst(start: datetime, instant: datetime) -> bool:
    return timedelta(0) <= instant - start <= BURST_WINDOW
