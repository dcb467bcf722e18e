"""Bulk subscription of simulated devices at a mock push service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from tidings.channels.webpush.server_keys import get_channel
from tidings.mockpush.devices import DEFAULT_SEED, derive_device
from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription
from tidings.ports.store import Transaction

if TYPE_CHECKING:
    from tidings.container import AppContainer


@dataclass(frozen=True, slots=True)
class DemoDevice:
    """A device to subscribe."""

    user_id: str
    #: id at the mock push service, from which the keys are derived
    device_id: str
    #: name that the user sees
    label: str


async def subscribe_devices(
    runtime: AppContainer, tx: Transaction, devices: Sequence[DemoDevice], *, origin: str, now: datetime
) -> None:
    """Subscribe devices that are not subscribed yet, in one statement. Their users must exist.

    Arguments: origin — of the mock push service, such as `http://127.0.0.1:9000`.
    """
    _, vapid_key_id = get_channel(runtime.channels).key_ring.public_key()
    subscriptions = [
        _build_subscription(device, origin=origin, vapid_key_id=vapid_key_id, now=now) for device in devices
    ]
    await runtime.store.subscriptions.add_unknown(tx, subscriptions, now)


def _build_subscription(device: DemoDevice, *, origin: str, vapid_key_id: str, now: datetime) -> PushSubscription:
    keys = derive_device(DEFAULT_SEED, device.device_id)
    return PushSubscription(
        id=new_id(now),
        user_id=device.user_id,
        endpoint=f"{origin}/push/{quote(device.device_id, safe='')}",
        p256dh=keys.p256dh,
        auth=keys.auth,
        vapid_key_id=vapid_key_id,
        device=device.label,
        created_at=now,
    )
