"""Simulated devices. Their keys are derived from a seed and the device id, so they need no registration or storage."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tidings.errors import ValidationFailed
from tidings.mockpush.base64url import encode

DEFAULT_SEED = b"tidings simulated devices"
MAX_DEVICE_ID = 200

#: order of the P-256 group (SEC 2, secp256r1)
_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
#: 10 000 devices with their key objects cost about 10 MB
_MAX_CACHED_DEVICES = 10_000


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """The keys of one device, as a browser would generate them (RFC 8291 §3)."""

    #: P-256 scalar
    private: int
    #: uncompressed public point, 65 bytes
    p256dh: bytes
    #: shared authentication secret, 16 bytes
    auth: bytes


class SubscriptionJson(TypedDict):
    """The value of `PushSubscription.toJSON()` in a browser."""

    endpoint: str
    expirationTime: None
    keys: Mapping[str, str]


def derive_device(seed: bytes, device_id: str) -> SimulatedDevice:
    """Return the device with an id; the same seed and id always give the same keys.

    Arguments: seed — any bytes; device_id — 1 to 200 printable characters. Raises ValidationFailed for another id.
    """
    return load_receiver(seed, device_id).device


@dataclass(frozen=True, slots=True)
class Receiver:
    """A device with its private key loaded, ready to decrypt."""

    device: SimulatedDevice
    key: ec.EllipticCurvePrivateKey


@lru_cache(maxsize=_MAX_CACHED_DEVICES)
def load_receiver(seed: bytes, device_id: str) -> Receiver:
    """Return the device with an id, ready to decrypt. It is recomputed (about 50 µs) after eviction from the cache."""
    if not is_device_id(device_id):
        raise ValidationFailed.for_field("device", f"must be 1 to {MAX_DEVICE_ID} printable characters")
    scalar = _derive_scalar(seed, device_id)
    key = ec.derive_private_key(scalar, ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    auth = _derive_bytes(seed, device_id, b"auth secret", 0)[:16]
    return Receiver(SimulatedDevice(scalar, public, auth), key)


def is_device_id(text: str) -> bool:
    """Return whether the text is a valid device id."""
    return 0 < len(text) <= MAX_DEVICE_ID and text.isprintable()


def subscription_json(origin: str, seed: bytes, device_id: str) -> SubscriptionJson:
    """Return the subscription of a simulated device at the mock push service with this origin."""
    device = derive_device(seed, device_id)
    return {
        "endpoint": f"{origin}/push/{quote(device_id, safe='')}",
        "expirationTime": None,
        "keys": {"p256dh": encode(device.p256dh), "auth": encode(device.auth)},
    }


def _derive_scalar(seed: bytes, device_id: str) -> int:
    # Rejection sampling as in FIPS 186-5 A.2.2; a second round is needed once in 2**32 devices.
    counter = 0
    while True:
        candidate = int.from_bytes(_derive_bytes(seed, device_id, b"private key", counter))
        if 0 < candidate < _ORDER:
            return candidate
        counter += 1


def _derive_bytes(seed: bytes, device_id: str, purpose: bytes, counter: int) -> bytes:
    info = b"tidings simulated device\0%b\0%d\0%b" % (purpose, counter, device_id.encode())
    return hmac.digest(seed, info, hashlib.sha256)
