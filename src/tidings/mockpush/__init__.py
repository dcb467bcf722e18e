"""Mock push service for tests: verifies VAPID, decrypts messages, simulates failures and counts receipts.

In a test: `async with MockPush() as push`. As a process: `spawn()`, or `python -m tidings.mockpush`.
It shares no code with the sender, so that an error in the sender cannot hide itself.
"""

from tidings.mockpush.behaviour import ResponseRule
from tidings.mockpush.client import MockPushClient
from tidings.mockpush.control import ReceivedMessage
from tidings.mockpush.devices import DEFAULT_SEED, SimulatedDevice, derive_device, subscription_json
from tidings.mockpush.receipt_log import Failure, Stats
from tidings.mockpush.server import MockPush, MockPushOptions, serve
from tidings.mockpush.spawn import SpawnedMockPush, spawn

__all__ = [
    "DEFAULT_SEED",
    "Failure",
    "MockPush",
    "MockPushClient",
    "MockPushOptions",
    "ReceivedMessage",
    "ResponseRule",
    "SimulatedDevice",
    "SpawnedMockPush",
    "Stats",
    "derive_device",
    "serve",
    "spawn",
    "subscription_json",
]
