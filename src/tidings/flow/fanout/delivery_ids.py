"""Ids of planned deliveries, and of the batches in which they are sent."""

from collections.abc import Iterator
from datetime import datetime
from itertools import repeat
from typing import NamedTuple

from tidings.model.ids import new_id


class DeliveryIds(NamedTuple):
    """Ids without end. Notifications of one lane may share them."""

    #: the id of each delivery
    deliveries: Iterator[str]
    #: the batch of each delivery that is sent at once
    batches: Iterator[str]


#: of a plan that is not stored. Its time may be virtual: an id of the future would make all later ids follow it.
NO_IDS = DeliveryIds(repeat(""), repeat(""))


def generate_ids(batch_size: int, now: datetime) -> DeliveryIds:
    """Return the ids of deliveries that are stored. now: the time of the clock. batch_size: deliveries per batch."""
    return DeliveryIds((new_id(now) for _ in repeat(None)), _generate_batches(batch_size, now))


def _generate_batches(size: int, now: datetime) -> Iterator[str]:
    while True:
        yield from repeat(new_id(now), size)
