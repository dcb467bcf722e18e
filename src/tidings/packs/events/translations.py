"""Translations of the fields and states of events."""

from collections.abc import Mapping

from tidings.changes.describer import FieldTranslations, make_change_formatter

_FIELDS = ("startDate", "endDate", "venue", "address", "status", "title", "description", "city", "hostId")
_STATUSES = ("DRAFT", "ACTIVE", "CANCELLED", "COMPLETED")
_MISSING = ("venue", "address", "endDate")


def _build_translations(
    labels: str, statuses: str, changed_text: str, no_value_text: str, missing_texts: str, colon: str = ": "
) -> FieldTranslations:
    """Return the translations of a language from `|`-separated lists in the order of the tuples above."""
    return FieldTranslations(
        labels=dict(zip(_FIELDS, labels.split("|"), strict=True)),
        statuses=dict(zip(_STATUSES, statuses.split("|"), strict=True)),
        changed_text=changed_text,
        no_value_text=no_value_text,
        missing_texts=dict(zip(_MISSING, missing_texts.split("|"), strict=True)),
        colon=colon,
    )


TRANSLATIONS: Mapping[str, FieldTranslations] = {
    "en": _build_translations(
        "Start|End|Venue|Address|Status|Title|Description|City|Host",
        "draft|going ahead|cancelled|over",
        "changed",
        "none",
        "no venue yet|no address yet|open end",
    ),
    "de": _build_translations(
        "Beginn|Ende|Ort|Adresse|Status|Titel|Beschreibung|Stadt|Veranstalter",
        "Entwurf|findet statt|abgesagt|beendet",
        "geändert",
        "keine Angabe",
        "noch kein Ort|noch keine Adresse|offenes Ende",
    ),
    "fr": _build_translations(
        "Début|Fin|Lieu|Adresse|Statut|Titre|Description|Ville|Organisateur",
        "brouillon|maintenu|annulé|terminé",
        "mise à jour",
        "aucun",
        "lieu à venir|adresse à venir|sans heure de fin",
        colon="\u00a0: ",
    ),
    "es": _build_translations(
        "Inicio|Fin|Lugar|Dirección|Estado|Título|Descripción|Ciudad|Organizador",
        "borrador|en pie|cancelado|finalizado",
        "actualización",
        "ninguno",
        "aún sin lugar|aún sin dirección|sin hora de fin",
    ),
    "it": _build_translations(
        "Inizio|Fine|Luogo|Indirizzo|Stato|Titolo|Descrizione|Città|Organizzatore",
        "bozza|confermato|annullato|concluso",
        "aggiornamento",
        "nessuno",
        "luogo da definire|indirizzo da definire|senza orario di fine",
    ),
    "pt": _build_translations(
        "Início|Fim|Local|Endereço|Estado|Título|Descrição|Cidade|Organizador",
        "rascunho|confirmado|cancelado|concluído",
        "atualização",
        "nenhum",
        "ainda sem local|ainda sem endereço|sem hora de fim",
    ),
    "nl": _build_translations(
        "Begin|Einde|Locatie|Adres|Status|Titel|Beschrijving|Stad|Organisator",
        "concept|gaat door|afgelast|afgelopen",
        "gewijzigd",
        "geen",
        "nog geen locatie|nog geen adres|open einde",
    ),
}

#: template filter: the changes of an event, one line each. Values of long texts and ids are not shown
format_changes = make_change_formatter(TRANSLATIONS, unquoted_fields=frozenset({"description", "hostId"}))
