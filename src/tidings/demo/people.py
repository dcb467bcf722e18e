"""The demo's 5 000 users in ten cities, the first of them with e-mail addresses.

All data are derived from the user's number, so they survive restarts.
"""

from collections.abc import Iterator

from tidings.model.user import User

USER_COUNT = 5000
#: the first users have an e-mail address; more e-mails would delay the pushes of the demo by many seconds
EMAIL_USER_COUNT = 500

#: locale, IANA time zone, city
_PLACES = (
    ("de-CH", "Europe/Zurich", "Zürich"),
    ("fr-CH", "Europe/Zurich", "Genève"),
    ("de-DE", "Europe/Berlin", "Berlin"),
    ("fr-FR", "Europe/Paris", "Paris"),
    ("en-GB", "Europe/London", "London"),
    ("en-US", "America/New_York", "New York"),
    ("es-ES", "Europe/Madrid", "Madrid"),
    ("it-IT", "Europe/Rome", "Roma"),
    ("pt-BR", "America/Sao_Paulo", "São Paulo"),
    ("nl-NL", "Europe/Amsterdam", "Amsterdam"),
)


def demo_user_id(number: int) -> str:
    """Return the id of a user; `number` is 1 to 5 000."""
    return f"demo-{number:04}"


def build_email(user_id: str) -> str:
    """Return the e-mail address of a demo user. The domain is reserved for examples (RFC 2606)."""
    return f"{user_id}@encore.example"


def build_host(user_id: str) -> User:
    """Return the organizer of the demo's events."""
    return User(user_id, email=build_email(user_id), locale="en", timezone="Europe/Zurich", attributes={"demo": True})


def build_users() -> Iterator[User]:
    """Yield every demo user."""
    for number in range(1, USER_COUNT + 1):
        locale, timezone, city = _PLACES[number % len(_PLACES)]
        user_id = demo_user_id(number)
        yield User(
            user_id,
            email=build_email(user_id) if number <= EMAIL_USER_COUNT else None,
            locale=locale,
            timezone=timezone,
            city=city,
            attributes={"demo": True},
        )


def device_names(number: int) -> tuple[str, ...]:
    """Return the names of a user's devices: every 25th user has none, every third has two."""
    if number % 25 == 0:
        return ()
    return ("Phone", "Laptop") if number % 3 == 0 else ("Phone",)


def has_declined_time_changes(number: int) -> bool:
    """Return whether the user turned off notifications about time changes, as every 40th did."""
    return number % 40 == 1


def ticket_status(number: int, event: int) -> str | None:
    """Return the status of the user's ticket for event 0, 1 or 2, or None without a ticket.

    Every user has a ticket for the first event, and every 50th returned it. A third of the users have a ticket for the
    second event, and a tenth for the last.
    """
    if event == 0:
        return "returned" if number % 50 == 2 else "active"
    return "active" if number % (3, 10)[event - 1] == 0 else None
