"""The texts of the layout and of the unsubscribe page, per language."""

from typing import Final

import msgspec


class Labels(msgspec.Struct, frozen=True):
    """The texts in one language. `{category}` and `{brand}` are replaced."""

    view: str
    unsubscribe: str
    reason: str
    mandatory_reason: str
    page_title: str
    page_question: str
    page_done: str
    page_invalid: str


_LABELS: Final = {
    "en": Labels(
        "View details",
        "Unsubscribe",
        "You receive this e-mail because “{category}” is turned on for your account at {brand}.",
        "You receive this e-mail because it concerns your account at {brand}.",
        "Unsubscribe",
        "Stop e-mails of the kind “{category}” from {brand}?",
        "Done. You will receive no more e-mails of the kind “{category}”.",
        "This link is not complete. Open it again from the e-mail.",
    ),
    "de": Labels(
        "Details ansehen",
        "Abbestellen",
        "Sie erhalten diese E-Mail, weil „{category}“ in Ihrem Konto bei {brand} eingeschaltet ist.",
        "Sie erhalten diese E-Mail, weil sie Ihr Konto bei {brand} betrifft.",
        "Abbestellen",
        "Keine E-Mails zu „{category}“ von {brand} mehr erhalten?",
        "Erledigt. Sie erhalten keine E-Mails zu „{category}“ mehr.",
        "Dieser Link ist nicht vollständig. Öffnen Sie ihn bitte erneut aus der E-Mail.",
    ),
    "fr": Labels(
        "Voir les détails",
        "Se désabonner",
        "Vous recevez cet e-mail car « {category} » est activé pour votre compte {brand}.",
        "Vous recevez cet e-mail car il concerne votre compte {brand}.",
        "Se désabonner",
        "Ne plus recevoir les e-mails « {category} » de {brand} ?",
        "C’est fait. Vous ne recevrez plus d’e-mails « {category} ».",
        "Ce lien est incomplet. Ouvrez-le à nouveau depuis l’e-mail.",
    ),
    "es": Labels(
        "Ver detalles",
        "Cancelar suscripción",
        "Recibes este correo porque «{category}» está activado en tu cuenta de {brand}.",
        "Recibes este correo porque se refiere a tu cuenta de {brand}.",
        "Cancelar suscripción",
        "¿Dejar de recibir correos de «{category}» de {brand}?",
        "Listo. No recibirás más correos de «{category}».",
        "Este enlace está incompleto. Ábrelo de nuevo desde el correo.",
    ),
    "it": Labels(
        "Vedi dettagli",
        "Annulla iscrizione",
        "Ricevi questa e-mail perché «{category}» è attivo nel tuo account {brand}.",
        "Ricevi questa e-mail perché riguarda il tuo account {brand}.",
        "Annulla iscrizione",
        "Non ricevere più e-mail «{category}» da {brand}?",
        "Fatto. Non riceverai più e-mail «{category}».",
        "Questo link è incompleto. Aprilo di nuovo dall’e-mail.",
    ),
    "pt": Labels(
        "Ver detalhes",
        "Cancelar inscrição",
        "Você recebe este e-mail porque “{category}” está ativado na sua conta {brand}.",
        "Você recebe este e-mail porque ele diz respeito à sua conta {brand}.",
        "Cancelar inscrição",
        "Parar de receber e-mails de “{category}” da {brand}?",
        "Pronto. Você não receberá mais e-mails de “{category}”.",
        "Este link está incompleto. Abra-o novamente a partir do e-mail.",
    ),
    "nl": Labels(
        "Details bekijken",
        "Afmelden",
        "U ontvangt deze e-mail omdat “{category}” is ingeschakeld in uw account bij {brand}.",
        "U ontvangt deze e-mail omdat deze uw account bij {brand} betreft.",
        "Afmelden",
        "Geen e-mails over “{category}” van {brand} meer ontvangen?",
        "Gelukt. U ontvangt geen e-mails over “{category}” meer.",
        "Deze link is niet volledig. Open hem opnieuw vanuit de e-mail.",
    ),
}


def find_labels(lang: str) -> Labels:
    """Return the texts for a BCP 47 tag, in English if there are none."""
    return _LABELS.get(lang.split("-")[0].lower(), _LABELS["en"])
