"""What events, their fields and their states are called in each language."""

from collections.abc import Mapping

from tidings.flow.detect.describe import Words, describer

_FIELDS = ("startDate", "endDate", "venue", "address", "status", "title", "description", "city", "hostId")
_STATUSES = ("DRAFT", "ACTIVE", "CANCELLED", "COMPLETED")
_MISSING = ("venue", "address", "endDate")


def _words(labels: str, statuses: str, changed: str, nothing: str, missing: str, colon: str = ": ") -> Words:
    """Make the words of a language from `|`-separated lists, in the order of the tuples above."""
    return Words(
        labels=dict(zip(_FIELDS, labels.split("|"), strict=True)),
        statuses=dict(zip(_STATUSES, statuses.split("|"), strict=True)),
        changed=changed,
        nothing=nothing,
        missing=dict(zip(_MISSING, missing.split("|"), strict=True)),
        colon=colon,
    )


VOCABULARY: Mapping[str, Words] = {
    "en": _words(
        "Start|End|Venue|Address|Status|Title|Description|City|Host",
        "draft|going ahead|cancelled|over",
        "changed",
        "none",
        "no venue yet|no address yet|open end",
    ),
    "de": _words(
        "Beginn|Ende|Ort|Adresse|Status|Titel|Beschreibung|Stadt|Veranstalter",
        "Entwurf|findet statt|abgesagt|beendet",
        "geändert",
        "keine Angabe",
        "noch kein Ort|noch keine Adresse|offenes Ende",
    ),
    "fr": _words(
        "Début|Fin|Lieu|Adresse|Statut|Titre|Description|Ville|Organisateur",
        "brouillon|maintenu|annulé|terminé",
        "mise à jour",
        "aucun",
        "lieu à venir|adresse à venir|sans heure de fin",
        colon="\u00a0: ",
    ),
    "es": _words(
        "Inicio|Fin|Lugar|Dirección|Estado|Título|Descripción|Ciudad|Organizador",
        "borrador|en pie|cancelado|finalizado",
        "actualización",
        "ninguno",
        "aún sin lugar|aún sin dirección|sin hora de fin",
    ),
    "it": _words(
        "Inizio|Fine|Luogo|Indirizzo|Stato|Titolo|Descrizione|Città|Organizzatore",
        "bozza|confermato|annullato|concluso",
        "aggiornamento",
        "nessuno",
        "luogo da definire|indirizzo da definire|senza orario di fine",
    ),
    "pt": _words(
        "Início|Fim|Local|Endereço|Estado|Título|Descrição|Cidade|Organizador",
        "rascunho|confirmado|cancelado|concluído",
        "atualização",
        "nenhum",
        "ainda sem local|ainda sem endereço|sem hora de fim",
    ),
    "nl": _words(
        "Begin|Einde|Locatie|Adres|Status|Titel|Beschrijving|Stad|Organisator",
        "concept|gaat door|afgelast|afgelopen",
        "gewijzigd",
        "geen",
        "nog geen locatie|nog geen adres|open einde",
    ),
}

#: template filter: the changes of an event, one line each. Long texts and ids are named, not quoted
described = describer(VOCABULARY, unquoted=frozenset({"description", "hostId"}))
