"""The configured weights of providers: their shares of the messages. Pure."""

from collections.abc import Sequence

#: weight of the first provider unless one is set; the others have 0, so that they are asked only after it
DEFAULT_WEIGHT = 100
MAX_WEIGHT = 1000


def parse_weight(text: str) -> int:
    """Return a weight from 0 to 1000. Raises ValueError with what it must be."""
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_WEIGHT:
        raise ValueError(f"has the weight {text!r}, which must be a number from 0 to {MAX_WEIGHT}")
    return int(text)


def complete_weights(weights: Sequence[int | None]) -> Sequence[int]:
    """Return the weight of each provider; None = not set."""
    return [
        (0 if position else DEFAULT_WEIGHT) if weight is None else weight for position, weight in enumerate(weights)
    ]
