"""The demo's people: 5 000 users in ten places. Everything follows from the number, so a restart finds the same."""

from collections.abc import Iterator

from tidings.model.user import User

USERS = 5000

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


def user_id(number: int) -> str:
    """Return the id of the user with a number from 1 to 5 000."""
    return f"demo-{number:04}"


def users() -> Iterator[User]:
    """Yield every demo user."""
    for number in range(1, USERS + 1):
        locale, timezone, city = _PLACES[number % len(_PLACES)]
        yield User(user_id(number), locale=locale, timezone=timezone, city=city, attributes={"demo": True})


def devices(number: int) -> tuple[str, ...]:
    """Return the names of a user's devices: every 25th user has none, every third has two."""
    if number % 25 == 0:
        return ()
    return ("Phone", "Laptop") if number % 3 == 0 else ("Phone",)


def declines_time_changes(number: int) -> bool:
    """Say whether the user turned news about new times off: every 40th did."""
    return number % 40 == 1


def holds_ticket(number: int, event: int) -> str | None:
    """Return the status of the user's ticket for event 0, 1 or 2, None without one.

    Everybody had a ticket for the first and every 50th gave it back; a third is at the second, a tenth at the last.
    """
    if event == 0:
        return "returned" if number % 50 == 2 else "active"
    return "active" if number % (3, 10)[event - 1] == 0 else None
