"""The categories and templates of the events pack, with their texts per language."""

from collections.abc import Mapping

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText

CATEGORIES = (
    Category("NEW_EVENT", "New events in my city and of hosts I follow"),
    Category("EVENT_TIME_CHANGE", "New times of my events"),
    Category("EVENT_VENUE_CHANGE", "New venues of my events"),
    Category("EVENT_CANCELLATION", "Cancelled events", mandatory=True),
    Category("EVENT_STATUS_CHANGE", "Other news about the state of my events"),
    Category("EVENT_REMINDER", "Reminders of my events"),
    Category("EVENT_MANUAL", "Messages from the hosts of my events"),
)

#: type of a change → code of its template
TEMPLATE_BY_CHANGE_TYPE: Mapping[str, str] = {
    "time_change": "EVENT_TIME_CHANGE",
    "venue_change": "EVENT_VENUE_CHANGE",
    "cancellation": "EVENT_CANCELLATION",
    "status_change": "EVENT_STATUS_CHANGE",
}

_CHANGES = "{{ changes | described }}"
_WHEN = "{{ startDate | instant }}"
_WHEN_AND_WHERE = _WHEN + "{% if venue %} · {{ venue }}{% endif %}"
_WHEN_AT_THE_VENUE = "{{ [startDate, venueTimezone] | instant_at_venue }}{% if venue %} · {{ venue }}{% endif %}"
#: the other changes, if a cancellation included more
_MORE = "{% if changes and changes | length > 1 %}\n{{ changes | described }}{% endif %}"

#: `eventUrl` if the host product set it, else the event's page; the front page for a message without an event
_URL = "{% if eventUrl %}{{ eventUrl }}{% elif eventId %}/events/{{ eventId | urlencode }}{% else %}/{% endif %}"

#: an e-mail has the event as a calendar file, unless a request of the host product has no `calendar`
_CALENDAR_CONTENTS = {"email": {"en": {"calendar": "{% if calendar %}{{ calendar | tojson }}{% endif %}"}}}


def _build_texts(titles: Mapping[str, str], body: str) -> dict[str, TemplateText]:
    """Return texts with one body for all languages: its filters use the recipient's language."""
    return {language: TemplateText(title, body) for language, title in titles.items()}


_NEW_EVENT_TITLES = {
    "en": "New event: {{ eventTitle }}",
    "de": "Neue Veranstaltung: {{ eventTitle }}",
    "fr": "Nouvel événement\u00a0: {{ eventTitle }}",
    "es": "Nuevo evento: {{ eventTitle }}",
    "it": "Nuovo evento: {{ eventTitle }}",
    "pt": "Novo evento: {{ eventTitle }}",
    "nl": "Nieuw evenement: {{ eventTitle }}",
}

_TIME_CHANGE_TITLES = {
    "en": "{{ eventTitle }}: new time",
    "de": "{{ eventTitle }}: neue Zeit",
    "fr": "{{ eventTitle }}\u00a0: nouvel horaire",
    "es": "{{ eventTitle }}: nuevo horario",
    "it": "{{ eventTitle }}: nuovo orario",
    "pt": "{{ eventTitle }}: novo horário",
    "nl": "{{ eventTitle }}: nieuwe tijd",
}

_VENUE_CHANGE_TITLES = {
    "en": "{{ eventTitle }}: new venue",
    "de": "{{ eventTitle }}: neuer Ort",
    "fr": "{{ eventTitle }}\u00a0: nouveau lieu",
    "es": "{{ eventTitle }}: nuevo lugar",
    "it": "{{ eventTitle }}: nuovo luogo",
    "pt": "{{ eventTitle }}: novo local",
    "nl": "{{ eventTitle }}: nieuwe locatie",
}

_STATUS_CHANGE_TITLES = {
    "en": "{{ eventTitle }}: news",
    "de": "{{ eventTitle }}: Neuigkeiten",
    "fr": "{{ eventTitle }}\u00a0: du nouveau",
    "es": "{{ eventTitle }}: novedades",
    "it": "{{ eventTitle }}: novità",
    "pt": "{{ eventTitle }}: novidades",
    "nl": "{{ eventTitle }}: nieuws",
}

_REMINDER_TITLES = {
    "en": "Starting soon: {{ eventTitle }}",
    "de": "Beginnt bald: {{ eventTitle }}",
    "fr": "Bientôt\u00a0: {{ eventTitle }}",
    "es": "Empieza pronto: {{ eventTitle }}",
    "it": "Inizia presto: {{ eventTitle }}",
    "pt": "Começa em breve: {{ eventTitle }}",
    "nl": "Begint binnenkort: {{ eventTitle }}",
}

_CANCELLATION_TEXTS = {
    "en": TemplateText("Cancelled: {{ eventTitle }}", f"It will not take place. It was planned for {_WHEN}.{_MORE}"),
    "de": TemplateText("Abgesagt: {{ eventTitle }}", f"Findet nicht statt. Geplant war: {_WHEN}.{_MORE}"),
    "fr": TemplateText(
        "Annulé\u00a0: {{ eventTitle }}", f"L’événement n’aura pas lieu. Il était prévu\u00a0: {_WHEN}.{_MORE}"
    ),
    "es": TemplateText("Cancelado: {{ eventTitle }}", f"No se celebrará. Estaba previsto: {_WHEN}.{_MORE}"),
    "it": TemplateText("Annullato: {{ eventTitle }}", f"Non si terrà. Era previsto: {_WHEN}.{_MORE}"),
    "pt": TemplateText("Cancelado: {{ eventTitle }}", f"Não se realizará. Estava previsto: {_WHEN}.{_MORE}"),
    "nl": TemplateText("Afgelast: {{ eventTitle }}", f"Gaat niet door. Het was gepland: {_WHEN}.{_MORE}"),
}


#: each change of an event is news: its item arrives as unseen and unread in place of the one before
_FEED_CONTENTS: Mapping[str, Mapping[str, Mapping[str, str]]] = {"inapp": {"en": {"renotify": "true"}}}


def _build_template(
    code: str, priority: Priority, texts: Mapping[str, TemplateText], *, optional: Mapping[str, object] | None = None
) -> Template:
    """Return the template of a category, with the same code. `optional`: variable → default."""
    defaults = {"eventUrl": None, "calendar": None, **(optional or {})}
    return Template(
        code=code,
        category=code,
        priority=priority,
        texts=texts,
        optional=frozenset(defaults),
        url=_URL,
        defaults=defaults,
        contents={**_CALENDAR_CONTENTS, **_FEED_CONTENTS},
    )


TEMPLATES = (
    _build_template(
        "NEW_EVENT", Priority.NORMAL, _build_texts(_NEW_EVENT_TITLES, _WHEN_AND_WHERE), optional={"venue": None}
    ),
    _build_template("EVENT_TIME_CHANGE", Priority.HIGH, _build_texts(_TIME_CHANGE_TITLES, _CHANGES)),
    _build_template("EVENT_VENUE_CHANGE", Priority.HIGH, _build_texts(_VENUE_CHANGE_TITLES, _CHANGES)),
    _build_template("EVENT_CANCELLATION", Priority.URGENT, _CANCELLATION_TEXTS, optional={"changes": []}),
    _build_template("EVENT_STATUS_CHANGE", Priority.NORMAL, _build_texts(_STATUS_CHANGE_TITLES, _CHANGES)),
    _build_template(
        "EVENT_REMINDER",
        Priority.HIGH,
        _build_texts(_REMINDER_TITLES, _WHEN_AT_THE_VENUE),
        optional={"venue": None, "venueTimezone": None},
    ),
    _build_template(
        "EVENT_MANUAL", Priority.HIGH, {"en": TemplateText("{{ title }}", "{{ body }}")}, optional={"eventId": None}
    ),
)
