"""The streams pack: live rooms of events, and the notification of the host when a stream has ended.

Takes: viewers who join and leave over WebSockets, and the decisions of the presence.
Gives: epochs of rooms, the category and template `STREAM_ENDED`, the audience `stream_host`.
Never: decides an end by itself, or sends anything.
"""

from pathlib import Path

from tidings.packs.streams.repository import erase, export, select_stream_host
from tidings.packs.streams.templates import CATEGORIES, TEMPLATES
from tidings.ports.pack import AudienceKind, Pack

pack = Pack(
    name="streams",
    categories=CATEGORIES,
    templates=TEMPLATES,
    audiences=(
        AudienceKind(
            "stream_host",
            {"eventId": "0190a3c0-8f00-7000-8000-000000000001", "epoch": "1"},
            select_stream_host,
            "is the host of event {eventId}, whose stream has ended (epoch {epoch}) and is not live again",
        ),
    ),
    migrations=Path(__file__).parent / "migrations",
    export=export,
    erase=erase,
)
