"""The category and the template of ended streams, with their texts per language."""

from collections.abc import Mapping

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText

CATEGORIES = (Category("STREAM_ENDED", "Ended streams of my events"),)


def _build_text(title: str, one: str, unstable: str, several: str) -> TemplateText:
    """Return a text. one: of a single end; unstable: of one stream that ended often; several: before the list."""
    times = "{% if stream.ends > 1 %} ({{ stream.ends }}×){% endif %}"
    rows = f"{{% for stream in streams %}}\n{{{{ stream.title }}}}{times}{{% endfor %}}"
    body = (
        f"{{% if streams | length > 1 %}}{several}{rows}"
        f"{{% elif interruptions > 1 %}}{unstable}{{% else %}}{one}{{% endif %}}"
    )
    return TemplateText(title, body)


_TEXTS: Mapping[str, TemplateText] = {
    "en": _build_text(
        "Event Stream Completed",
        "Your event stream has ended.\n\n"
        'Your event "{{ eventTitle }}" stream has ended. All viewers have disconnected from the stream.',
        'Your event "{{ eventTitle }}" stream has ended {{ interruptions }} times within an hour. All viewers have '
        "disconnected from the stream.",
        "Several of your event streams have ended:",
    ),
    "de": _build_text(
        "Livestream beendet",
        "Ihr Livestream ist zu Ende.\n\n"
        "Der Livestream Ihrer Veranstaltung „{{ eventTitle }}“ ist zu Ende. Niemand schaut mehr zu.",
        "Der Livestream Ihrer Veranstaltung „{{ eventTitle }}“ ist innerhalb einer Stunde {{ interruptions }}-mal zu "
        "Ende gegangen. Niemand schaut mehr zu.",
        "Mehrere Ihrer Livestreams sind zu Ende:",
    ),
}

TEMPLATES = (
    Template(
        code="STREAM_ENDED",
        category="STREAM_ENDED",
        priority=Priority.NORMAL,
        texts=_TEXTS,
        optional=frozenset({"eventId", "streams", "interruptions"}),
        defaults={"eventId": None, "streams": [], "interruptions": 1},
        url="{% if eventId %}/events/{{ eventId | urlencode }}{% else %}/{% endif %}",
        contents={
            "email": {
                "en": {
                    "subject": "{% if streams | length > 1 %}Event Streams Ended{% else %}"
                    "Event Stream Ended - {{ eventTitle }}{% endif %}"
                },
                "de": {
                    "subject": "{% if streams | length > 1 %}Livestreams beendet{% else %}"
                    "Livestream beendet – {{ eventTitle }}{% endif %}"
                },
            }
        },
    ),
)
