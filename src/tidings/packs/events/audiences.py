"""The sets of people an event brings (MISSION M3)."""

from collections.abc import Mapping

from sqlalchemy import Select, select

from tidings.packs.events.tables import favourites, tickets
from tidings.ports.pack import AudienceKind


def _ticket_holders(arguments: Mapping[str, object]) -> Select[str]:
    return select(tickets.c.user_id).where(tickets.c.event_id == arguments["eventId"], tickets.c.status == "active")


def _favourited(arguments: Mapping[str, object]) -> Select[str]:
    return select(favourites.c.user_id).where(favourites.c.event_id == arguments["eventId"])


def _favourited_host(arguments: Mapping[str, object]) -> Select[str]:
    # A user may have favourited several events of the host: only the row of the first event stands for the user.
    # DISTINCT would say the same, but neither database stops at a page's limit through it: each page would read and
    # sort all that follow (SQLite's plan: USE TEMP B-TREE FOR ORDER BY).
    earlier = favourites.alias("earlier")
    repeated = select(earlier.c.event_id).where(
        earlier.c.host_id == favourites.c.host_id,
        earlier.c.user_id == favourites.c.user_id,
        earlier.c.event_id < favourites.c.event_id,
    )
    return select(favourites.c.user_id).where(favourites.c.host_id == arguments["hostId"], ~repeated.exists())


AUDIENCES = (
    AudienceKind(
        "ticket_holders",
        {"eventId": "0190a3c0-8f00-7000-8000-000000000001"},
        _ticket_holders,
        "holds an active ticket of event {eventId}",
    ),
    AudienceKind(
        "favourited", {"eventId": "0190a3c0-8f00-7000-8000-000000000001"}, _favourited, "favourited event {eventId}"
    ),
    AudienceKind("favourited_host", {"hostId": "host-7"}, _favourited_host, "favourited an event of host {hostId}"),
)
