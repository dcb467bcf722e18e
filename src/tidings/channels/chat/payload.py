"""The payload of a chat message: title, body and link, which each service shows in its own way. Pure."""

import msgspec

from tidings.errors import ValidationFailed
from tidings.model.template import RenderedMessage


class ChatPayload(msgspec.Struct, frozen=True):
    """A message before it is written for a service."""

    title: str
    body: str
    #: absolute URL
    url: str


def compose_payload(content: RenderedMessage) -> ChatPayload:
    """Return the payload of a message. A template may have a `title` and a `text` for the channel.

    Raises ValidationFailed for `text` if both are empty.
    """
    text = content.fields.get("text")
    title = content.fields.get("title", content.title if text is None else "")
    payload = ChatPayload(title.strip(), (content.body if text is None else text).strip(), content.url)
    if not payload.title and not payload.body:
        raise ValidationFailed.for_field("text", "a chat message needs a text")
    return payload


def encode_payload(payload: ChatPayload) -> bytes:
    """Return a payload as bytes. Raises ValidationFailed for half of a surrogate pair."""
    try:
        return msgspec.json.encode(payload)
    except UnicodeEncodeError:
        message = "contains half of a surrogate pair, which is not a character"
        raise ValidationFailed.for_field("text", message) from None


def decode_payload(data: bytes) -> ChatPayload:
    """Return the payload of `encode_payload`."""
    return msgspec.json.decode(data, type=ChatPayload)
