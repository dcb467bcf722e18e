"""Tokens of unsubscribe links (RFC 8058). CAN-SPAM asks that they work for 30 days; they have no expiry."""

from typing import Final

import msgspec

from tidings.channels.signed_token import sign_token, verify_token

_PURPOSE: Final = b"tidings unsubscribe v1"
#: characters of a token that are read: user id and category have at most some hundred
MAX_TOKEN_LENGTH: Final = 2048


class Unsubscription(msgspec.Struct, frozen=True, array_like=True):
    """What an unsubscribe link turns off."""

    user_id: str
    #: code of the category
    category: str
    channel: str = "email"


def sign_unsubscription(secret_key: str, unsubscription: Unsubscription) -> str:
    """Return the token of an unsubscribe link: URL-safe characters, the same for each message of user and category."""
    return sign_token(secret_key, _PURPOSE, msgspec.json.encode(unsubscription))


def verify_unsubscription(secret_key: str, token: str) -> Unsubscription | None:
    """Return what a token turns off, None if it was not signed with this secret key."""
    payload = verify_token(secret_key, _PURPOSE, token, max_length=MAX_TOKEN_LENGTH)
    try:
        return None if payload is None else msgspec.json.decode(payload, type=Unsubscription)
    except msgspec.MsgspecError:
        return None
