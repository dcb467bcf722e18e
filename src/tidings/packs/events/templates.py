"""What is said about events: categories, and the words per language (API.md, built-in names)."""

from collections.abc import Mapping

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, Wording

CATEGORIES = (
    Category("NEW_EVENT", "New events in my city and of hosts I follow"),
    Category("EVENT_TIME_CHANGE", "New times of my events"),
    Category("EVENT_VENUE_CHANGE", "New venues of my events"),
    Category("EVENT_CANCELLATION", "Cancelled events", mandatory=True),
    Category("EVENT_STATUS_CHANGE", "Other news about the state of my events"),
    Category("EVENT_MANUAL", "Messages from the hosts of my events"),
)

#: type of a change → template that tells it
TEMPLATE_OF: Mapping[str, str] = {
    "time_change": "EVENT_TIME_CHANGE",
    "venue_change": "EVENT_VENUE_CHANGE",
    "cancellation": "EVENT_CANCELLATION",
    "status_change": "EVENT_STATUS_CHANGE",
}

_CHANGES = "{{ changes | described }}"
_WHEN = "{{ startDate | instant }}"
_WHEN_AND_WHERE = _WHEN + "{% if venue %} · {{ venue }}{% endif %}"
#: what else changed, when a cancellation came with more
_MORE = "{% if changes and changes | length > 1 %}\n{{ changes | described }}{% endif %}"

#: the host product's own page of the event, if it says which; a message without an event opens the front page
_URL = "{% if eventUrl %}{{ eventUrl }}{% elif eventId %}/events/{{ eventId | urlencode }}{% else %}/{% endif %}"


def _titled(titles: Mapping[str, str], body: str) -> dict[str, Wording]:
    """One body for all languages: the filters in it speak the reader's language."""
    return {language: Wording(title, body) for language, title in titles.items()}


_NEW = {
    "en": "New event: {{ eventTitle }}",
    "de": "Neue Veranstaltung: {{ eventTitle }}",
    "fr": "Nouvel événement\u00a0: {{ eventTitle }}",
    "es": "Nuevo evento: {{ eventTitle }}",
    "it": "Nuovo evento: {{ eventTitle }}",
    "pt": "Novo evento: {{ eventTitle }}",
    "nl": "Nieuw evenement: {{ eventTitle }}",
}

_TIME = {
    "en": "{{ eventTitle }}: new time",
    "de": "{{ eventTitle }}: neue Zeit",
    "fr": "{{ eventTitle }}\u00a0: nouvel horaire",
    "es": "{{ eventTitle }}: nuevo horario",
    "it": "{{ eventTitle }}: nuovo orario",
    "pt": "{{ eventTitle }}: novo horário",
    "nl": "{{ eventTitle }}: nieuwe tijd",
}

_VENUE = {
    "en": "{{ eventTitle }}: new venue",
    "de": "{{ eventTitle }}: neuer Ort",
    "fr": "{{ eventTitle }}\u00a0: nouveau lieu",
    "es": "{{ eventTitle }}: nuevo lugar",
    "it": "{{ eventTitle }}: nuovo luogo",
    "pt": "{{ eventTitle }}: novo local",
    "nl": "{{ eventTitle }}: nieuwe locatie",
}

_STATUS = {
    "en": "{{ eventTitle }}: news",
    "de": "{{ eventTitle }}: Neuigkeiten",
    "fr": "{{ eventTitle }}\u00a0: du nouveau",
    "es": "{{ eventTitle }}: novedades",
    "it": "{{ eventTitle }}: novità",
    "pt": "{{ eventTitle }}: novidades",
    "nl": "{{ eventTitle }}: nieuws",
}

_CANCELLED = {
    "en": Wording("Cancelled: {{ eventTitle }}", f"It will not take place. It was planned for {_WHEN}.{_MORE}"),
    "de": Wording("Abgesagt: {{ eventTitle }}", f"Findet nicht statt. Geplant war: {_WHEN}.{_MORE}"),
    "fr": Wording(
        "Annulé\u00a0: {{ eventTitle }}", f"L’événement n’aura pas lieu. Il était prévu\u00a0: {_WHEN}.{_MORE}"
    ),
    "es": Wording("Cancelado: {{ eventTitle }}", f"No se celebrará. Estaba previsto: {_WHEN}.{_MORE}"),
    "it": Wording("Annullato: {{ eventTitle }}", f"Non si terrà. Era previsto: {_WHEN}.{_MORE}"),
    "pt": Wording("Cancelado: {{ eventTitle }}", f"Não se realizará. Estava previsto: {_WHEN}.{_MORE}"),
    "nl": Wording("Afgelast: {{ eventTitle }}", f"Gaat niet door. Het was gepland: {_WHEN}.{_MORE}"),
}


def _template(
    code: str, priority: Priority, words: Mapping[str, Wording], *, optional: Mapping[str, object] | None = None
) -> Template:
    """One template per category, of the same name. Optional variables come with what stands in for them."""
    defaults = {"eventUrl": None, **(optional or {})}
    return Template(
        code=code,
        category=code,
        priority=priority,
        words=words,
        optional=frozenset(defaults),
        url=_URL,
        defaults=defaults,
    )


TEMPLATES = (
    _template("NEW_EVENT", Priority.NORMAL, _titled(_NEW, _WHEN_AND_WHERE), optional={"venue": None}),
    _template("EVENT_TIME_CHANGE", Priority.HIGH, _titled(_TIME, _CHANGES)),
    _template("EVENT_VENUE_CHANGE", Priority.HIGH, _titled(_VENUE, _CHANGES)),
    _template("EVENT_CANCELLATION", Priority.URGENT, _CANCELLED, optional={"changes": []}),
    _template("EVENT_STATUS_CHANGE", Priority.NORMAL, _titled(_STATUS, _CHANGES)),
    _template("EVENT_MANUAL", Priority.HIGH, {"en": Wording("{{ title }}", "{{ body }}")}, optional={"eventId": None}),
)
