"""The core pack: plain messages, and audiences of users by id, city or preference."""

from collections.abc import Mapping

from sqlalchemy import Select, exists, select, tuple_

from tidings.model.delivery import DeliveryState
from tidings.model.preference import ANY
from tidings.model.priority import Priority
from tidings.model.template import DIGEST_CODE, Category, Template, TemplateText
from tidings.packs import core_audiences
from tidings.ports.pack import AudienceKind, Pack
from tidings.stores.schema.tables import WHERE_SUBJECT, deliveries, notifications, preferences, users
from tidings.stores.sql.json_params import text_array


def _select_users(arguments: Mapping[str, object]) -> Select[str]:
    ids = arguments["userIds"]
    assert isinstance(ids, list), "validated on acceptance"
    return select(users.c.id).where(users.c.id.in_(text_array(ids)))


def _select_everyone(_arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id)


def _select_city(arguments: Mapping[str, object]) -> Select[str]:
    return select(users.c.id).where(users.c.city == arguments["city"])


def _select_opted_in(arguments: Mapping[str, object]) -> Select[str]:
    # opted in on any channel, but selected once, by the row of the first channel: DISTINCT would sort the rest per page
    first, other = preferences, preferences.alias()
    opted_in = (first.c.category == arguments["category"], first.c.enabled.is_(True), first.c.subject == ANY)
    earlier = exists().where(
        other.c.user_id == first.c.user_id,
        other.c.category == first.c.category,
        other.c.enabled.is_(True),
        other.c.subject == ANY,
        other.c.channel < first.c.channel,
    )
    return select(first.c.user_id).where(*opted_in, ~earlier)


def _select_informed(arguments: Mapping[str, object]) -> Select[str]:
    return _select_by_delivery(arguments["subject"], DeliveryState.DELIVERED)


def _select_informed_before(arguments: Mapping[str, object]) -> Select[str]:
    version = str(arguments["version"])
    before = int(version) if version.isascii() and version.isdecimal() else 0
    return _select_by_delivery(arguments["subject"], DeliveryState.DELIVERED, before=before)


def _select_being_informed(arguments: Mapping[str, object]) -> Select[str]:
    return _select_by_delivery(arguments["subject"], DeliveryState.SENDING)


def _select_by_delivery(subject: object, state: DeliveryState, *, before: int | None = None) -> Select[str]:
    # Each user once: by the row of the first notification and target. DISTINCT would sort the rest per page.
    on_subject = select(notifications.c.id).where(WHERE_SUBJECT, notifications.c.subject == subject)
    if before is not None:
        on_subject = on_subject.where(notifications.c.subject_version < before)
    first, other = deliveries, deliveries.alias("other")
    earlier = exists().where(
        other.c.notification_id.in_(on_subject),
        other.c.user_id == first.c.user_id,
        other.c.state == state.value,
        tuple_(other.c.notification_id, other.c.channel, other.c.target_id)
        < tuple_(first.c.notification_id, first.c.channel, first.c.target_id),
    )
    return select(first.c.user_id).where(
        first.c.notification_id.in_(on_subject), first.c.state == state.value, ~earlier
    )


def require_text(value: object, _locale: str, _timezone: str) -> str:
    """Return a text or a number as text. Raises ValueError for other types and for blank texts."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError("title and body must be texts that are not blank")
    return str(value)


def _build_disabled_text(title: str, refused: str, failing: str, what_to_do: str) -> TemplateText:
    reason = f"{{% if reason == 'refused' %}}{refused}{{% else %}}{failing}{{% endif %}}"
    return TemplateText(title, f"{reason} {what_to_do} {{{{ lastError }}}}")


#: notices to the owner of a contact point that was disabled, by locale
_DISABLED_TEXTS = {
    "en": _build_disabled_text(
        "Your {{ name }} was disabled",
        "It asked for no more messages.",
        "Every message to it has failed for {{ days }} days.",
        "Correct the cause and enable it again; missed messages can be replayed. Last answer:",
    ),
    "de": _build_disabled_text(
        "{{ name }} wurde abgeschaltet",
        "Das Ziel möchte keine Nachrichten mehr.",
        "Seit {{ days }} Tagen ist jede Nachricht dorthin gescheitert.",
        "Beheben Sie die Ursache und schalten Sie es wieder ein; Verpasstes lässt sich nachholen. Letzte Antwort:",
    ),
    "fr": _build_disabled_text(
        "{{ name }} a été désactivé",
        "La destination ne veut plus de messages.",
        "Depuis {{ days }} jours, tous les messages ont échoué.",
        "Corrigez la cause puis réactivez-la ; les messages manqués peuvent être renvoyés. Dernière réponse :",
    ),
    "es": _build_disabled_text(
        "Se ha desactivado {{ name }}",
        "El destino no quiere más mensajes.",
        "Todos los mensajes han fallado durante {{ days }} días.",
        "Corrija la causa y actívelo de nuevo; lo perdido se puede reenviar. Última respuesta:",
    ),
}

#: an SMS has no title: `smsText` is the whole text, else title and body are
_SMS_TEXT = "{% if smsText %}{{ smsText | text }}{% else %}{{ title | text }}\n{{ body | text }}{% endif %}"

#: a digest of one item is that item
_DIGEST_BODY = """{% if count == 1 and items %}{{ items[0].body }}{% else %}
{%- for item in items %}{{ item.title }}{% if item.body %}: {{ item.body }}{% endif %}
{% endfor %}{% if count > items | length %}MORE{% endif %}{% endif %}"""
_DIGEST_SMS = """{% if count == 1 and items %}{{ items[0].title }}
{{ items[0].body }}{% else %}TITLE:
{%- for item in items %} {{ item.title }}{% if not loop.last %};{% endif %}{% endfor %}
{%- if count > items | length %}; MORE{% endif %}{% endif %}"""
#: locale → title of several items, and what follows the items that are shown
_DIGEST_WORDS = {
    "en": ("{{ count }} updates", "and {{ count - items | length }} more"),
    "de": ("{{ count }} Neuigkeiten", "und {{ count - items | length }} weitere"),
    "fr": ("{{ count }} nouveautés", "et {{ count - items | length }} autres"),
    "es": ("{{ count }} novedades", "y {{ count - items | length }} más"),
}

pack = Pack(
    name="core",
    categories=(
        Category("MESSAGE", "Messages"),
        Category("CONTACT_POINT_DISABLED", "Disabled contact points", mandatory=True),
    ),
    templates=(
        Template(
            code="MESSAGE",
            category="MESSAGE",
            priority=Priority.NORMAL,
            texts={"en": TemplateText("{{ title | text }}", "{{ body | text }}")},
            optional=frozenset({"url", "smsText"}),
            url="{{ url or '/' }}",
            contents={"sms": {"en": {"text": _SMS_TEXT}}},
        ),
        Template(
            code=DIGEST_CODE,
            # a digest has the category of its items
            category="MESSAGE",
            priority=Priority.NORMAL,
            texts={
                locale: TemplateText(
                    f"{{% if count == 1 and items %}}{{{{ items[0].title }}}}{{% else %}}{title}{{% endif %}}",
                    _DIGEST_BODY.replace("MORE", more),
                )
                for locale, (title, more) in _DIGEST_WORDS.items()
            },
            optional=frozenset({"url"}),
            url="{{ url or '/' }}",
            contents={
                "sms": {
                    locale: {"text": _DIGEST_SMS.replace("TITLE", title).replace("MORE", more)}
                    for locale, (title, more) in _DIGEST_WORDS.items()
                }
            },
        ),
        Template(
            code="CONTACT_POINT_DISABLED",
            category="CONTACT_POINT_DISABLED",
            priority=Priority.HIGH,
            texts=_DISABLED_TEXTS,
            optional=frozenset({"contactPointId", "channel", "lastError", "days", "reason"}),
        ),
    ),
    filters={"text": require_text},
    audiences=(
        AudienceKind("users", {"userIds": "user-1"}, _select_users, "is one of the users named"),
        AudienceKind("everyone", {}, _select_everyone, "is a user"),
        AudienceKind("city", {"city": "Berlin"}, _select_city, "lives in {city}"),
        AudienceKind(
            "informed", {"subject": "event:7"}, _select_informed, "was sent a notification on the subject {subject}"
        ),
        AudienceKind(
            "informed_before",
            {"subject": "event:7", "version": "3"},
            _select_informed_before,
            "was sent a notification on the subject {subject} before version {version}",
        ),
        AudienceKind(
            "being_informed",
            {"subject": "event:7"},
            _select_being_informed,
            "is being sent a notification on the subject {subject}",
        ),
        AudienceKind("opted_in", {"category": "NEW_EVENT"}, _select_opted_in, "turned {category} on"),
        *core_audiences.AUDIENCES,
    ),
)
