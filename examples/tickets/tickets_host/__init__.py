"""A box office with tables of its own: what Tidings needs to know of it, as a pack."""

from collections.abc import Mapping

from sqlalchemy import Column, ForeignKey, Integer, MetaData, Select, String, Table, select

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText
from tidings.ports.pack import AudienceKind, Pack

metadata = MetaData()
shows = Table(
    "host_shows",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("title", String(200), nullable=False),
    Column("hall", String(200), nullable=False),
)
seats = Table(
    "host_seats",
    metadata,
    Column("show_id", ForeignKey("host_shows.id"), primary_key=True),
    # the id that the visitor has in Tidings; one seat per visitor, in the order in which Tidings reads them
    Column("visitor", String(200), primary_key=True),
)


def select_visitors(arguments: Mapping[str, object]) -> Select[str]:
    """Return the query for the visitors of a show."""
    return select(seats.c.visitor).where(seats.c.show_id == int(str(arguments["showId"])))


pack = Pack(
    name="box_office",
    categories=(Category("SHOW_CHANGED", "Changes of shows that I visit"),),
    templates=(
        Template(
            code="SHOW_CHANGED",
            category="SHOW_CHANGED",
            priority=Priority.HIGH,
            texts={
                "en": TemplateText("{{ title }}: new hall", "It takes place in {{ hall }}."),
                "de": TemplateText("{{ title }}: neuer Saal", "Sie findet in {{ hall }} statt."),
            },
            url="/shows/{{ showId }}",
            subject="show:{{ showId }}",
        ),
    ),
    audiences=(AudienceKind("visitors", {"showId": "1"}, select_visitors, "has a seat for show {showId}"),),
)
