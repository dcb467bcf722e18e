"""The audiences of the events pack: ticket holders and users with favourites."""

from collections.abc import Mapping

from sqlalchemy import Select, select

from tidings.packs.events import repository
from tidings.packs.events.tables import favourites, tickets
from tidings.ports.pack import AudienceKind
from tidings.ports.store import Transaction


def _select_ticket_holders(arguments: Mapping[str, object]) -> Select[str]:
    return select(tickets.c.user_id).where(tickets.c.event_id == arguments["eventId"], tickets.c.status == "active")


def _select_favourited(arguments: Mapping[str, object]) -> Select[str]:
    return select(favourites.c.user_id).where(favourites.c.event_id == arguments["eventId"])


def _select_favourited_host(arguments: Mapping[str, object]) -> Select[str]:
    # A user may have favourited several events of the host, so only the row of the first event is selected. With
    # DISTINCT neither database would stop at the page's limit: each page would read and sort all remaining rows
    # (SQLite's plan: USE TEMP B-TREE FOR ORDER BY).
    earlier = favourites.alias("earlier")
    repeated = select(earlier.c.event_id).where(
        earlier.c.host_id == favourites.c.host_id,
        earlier.c.user_id == favourites.c.user_id,
        earlier.c.event_id < favourites.c.event_id,
    )
    return select(favourites.c.user_id).where(favourites.c.host_id == arguments["hostId"], ~repeated.exists())


async def _check_event(tx: Transaction, arguments: Mapping[str, object]) -> Mapping[str, str]:
    if await repository.has_event(tx, str(arguments["eventId"])):
        return {}
    return {"eventId": "is an unknown event; POST /api/events creates one"}


AUDIENCES = (
    AudienceKind(
        "ticket_holders",
        {"eventId": "0190a3c0-8f00-7000-8000-000000000001"},
        _select_ticket_holders,
        "holds an active ticket of event {eventId}",
        _check_event,
    ),
    AudienceKind(
        "favourited",
        {"eventId": "0190a3c0-8f00-7000-8000-000000000001"},
        _select_favourited,
        "favourited event {eventId}",
        _check_event,
    ),
    AudienceKind(
        "favourited_host", {"hostId": "host-7"}, _select_favourited_host, "favourited an event of host {hostId}"
    ),
)
