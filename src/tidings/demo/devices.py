"""Simulated devices at a mock push service, subscribed in bulk: what `subscribe` does for one browser at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import msgspec

from tidings.model.ids import new_id
from tidings.model.subscription import SubscriptionState
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.schema import push_subscriptions
from tidings.stores.sealing import Sealer
from tidings.stores.upserts import upsert
from tidings.testing.mock_push.devices import DEFAULT_SEED, simulated_device

if TYPE_CHECKING:
    from tidings.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Simulated:
    """A device to subscribe."""

    user_id: str
    #: its name at the mock push service, from which its keys follow
    device_id: str
    #: what its user calls it
    label: str


async def add(runtime: Runtime, tx: Transaction, devices: Sequence[Simulated], *, origin: str, now: datetime) -> None:
    """Subscribe devices that are not subscribed yet, in one statement; their users must exist.

    origin: of the mock push service, e.g. `http://127.0.0.1:9000`.
    """
    if devices:
        rows = _rows(runtime, devices, origin, now)
        await of(tx).execute(upsert(tx, push_subscriptions).on_conflict_do_nothing(), rows)


def _rows(runtime: Runtime, devices: Sequence[Simulated], origin: str, now: datetime) -> list[Mapping[str, object]]:
    sealer = Sealer(runtime.settings.secret_key)
    _, vapid_key_id = runtime.push.public_key()
    rows: list[Mapping[str, object]] = []
    for device in devices:
        row_id = new_id(now)
        endpoint = f"{origin}/push/{quote(device.device_id, safe='')}"
        keys = simulated_device(DEFAULT_SEED, device.device_id)
        rows.append(
            {
                "id": row_id,
                "user_id": device.user_id,
                "endpoint_digest": sealer.digest(endpoint),
                "host": urlsplit(endpoint).netloc,
                "sealed": sealer.seal(msgspec.msgpack.encode((endpoint, keys.p256dh, keys.auth)), row_id),
                "vapid_key_id": vapid_key_id,
                "device": device.label,
                "state": SubscriptionState.ACTIVE.value,
                "state_changed_at": now,
                "created_at": now,
            }
        )
    return rows
