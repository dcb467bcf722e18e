"""A push service to test against: checks VAPID, decrypts as the device would, misbehaves on demand, counts receipts.

In a test: `async with MockPush() as push`. As a process: `spawn()`, or `python -m tidings.testing.mock_push`.
It shares no code with the sender, so that it can be its judge.
"""

from tidings.testing.mock_push.behaviour import Rule
from tidings.testing.mock_push.client import MockPushClient
from tidings.testing.mock_push.control import Received
from tidings.testing.mock_push.devices import DEFAULT_SEED, SimulatedDevice, simulated_device, subscription_json
from tidings.testing.mock_push.ledger import Failure, Stats
from tidings.testing.mock_push.server import MockPush, MockPushOptions, serve
from tidings.testing.mock_push.spawn import SpawnedMockPush, spawn

__all__ = [
    "DEFAULT_SEED",
    "Failure",
    "MockPush",
    "MockPushClient",
    "MockPushOptions",
    "Received",
    "Rule",
    "SimulatedDevice",
    "SpawnedMockPush",
    "Stats",
    "serve",
    "simulated_device",
    "spawn",
    "subscription_json",
]
