"""Client of the mock push service's control API."""

import asyncio
import http.client
import ssl
from collections.abc import Iterator, Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from tidings.errors import TidingsError, ValidationFailed
from tidings.mockpush.behaviour import ResponseRule
from tidings.mockpush.control import ReceivedMessage
from tidings.mockpush.devices import SubscriptionJson
from tidings.mockpush.receipt_log import Stats

T = TypeVar("T")

#: seconds that a call may take in addition to the service's own timeout
_TIMEOUT_MARGIN = 10.0


class _Messages(msgspec.Struct, frozen=True):
    items: tuple[ReceivedMessage, ...]


class _Receipt(msgspec.Struct, frozen=True):
    device: str
    topic: str
    count: int


class _Times(msgspec.Struct, frozen=True):
    items: tuple[tuple[str, float], ...]


class MockPushClient:
    """The control API of one service. Every call raises TidingsError when the service does not respond."""

    def __init__(self, origin: str, *, tls: ssl.SSLContext | None = None) -> None:
        """Arguments: origin — as printed by the service; tls — context that trusts its certificate."""
        self.origin = origin
        self._tls = tls

    async def stats(self) -> Stats:
        """Return the current counters."""
        return await self._get("/control/stats", Stats)

    async def wait_for(self, *, timeout: float = 10.0, **reached: int) -> Stats:  # noqa: ASYNC109  # part of the kit
        """Return the counters once e.g. `distinct=5` holds: received, accepted, distinct or verified.

        Arguments: timeout — seconds for each counter. Raises TimeoutError.
        """
        stats = await self.stats()
        for counter, number in reached.items():
            query = urlencode({counter: number, "timeoutMs": round(timeout * 1000)})
            stats = await self._get(f"/control/stats?{query}", Stats, timeout + _TIMEOUT_MARGIN)
            if getattr(stats, counter) < number:
                raise TimeoutError(f"{counter} is {getattr(stats, counter)}, not {number}, after {timeout:g} s")
        return stats

    async def messages(
        self, *, device: str | None = None, after: int | None = None, limit: int = 100
    ) -> Sequence[ReceivedMessage]:
        """Return kept messages, decrypted, oldest first: the last ones, or the first with a number above `after`."""
        query = urlencode({"limit": limit} if after is None else {"limit": limit, "after": after})
        path = "/control/messages" + (f"/{quote(device, safe='')}" if device is not None else "")
        return (await self._get(f"{path}?{query}", _Messages)).items

    async def receipts(self) -> Sequence[tuple[str, str, int]]:
        """Return (device, topic, count) of every accepted message."""
        body = await self._call("GET", "/control/receipts", timeout=300.0)
        return [(r.device, r.topic, r.count) for r in _read_receipts(body)]

    async def times(self) -> Sequence[tuple[str, float]]:
        """Return (device, Unix time) of every message accepted for a timed device, in order."""
        return (await self._get("/control/times", _Times)).items

    async def subscription(self, device: str) -> SubscriptionJson:
        """Return the subscription of a simulated device."""
        return await self._get(f"/control/devices/{quote(device, safe='')}", SubscriptionJson)

    async def bind(self, device: str, application_server_key: str) -> None:
        """Set the public key (base64url) with which a device was subscribed."""
        body = msgspec.json.encode({"applicationServerKey": application_server_key})
        await self._call("PUT", f"/control/devices/{quote(device, safe='')}", body)

    async def set_rules(self, *rules: ResponseRule) -> None:
        """Replace the rules; without rules every valid message is accepted. Raises ValidationFailed."""
        if rules:
            await self._call("PUT", "/control/behaviour", msgspec.json.encode({"rules": rules}))
        else:
            await self._call("DELETE", "/control/behaviour")

    async def reset(self) -> None:
        """Delete all messages, counters, rules and bound keys."""
        await self._call("POST", "/control/reset")

    async def _get(self, path: str, kind: type[T], timeout: float = 30.0) -> T:  # noqa: ASYNC109  # the socket's own
        return msgspec.json.decode(await self._call("GET", path, timeout=timeout), type=kind)

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        timeout: float = 30.0,  # noqa: ASYNC109  # the socket's own
    ) -> bytes:
        status, response = await asyncio.to_thread(self._exchange, method, path, body, timeout)
        if status == 400:
            raise ValidationFailed(msgspec.json.decode(response)["message"])
        if status >= 300:
            raise TidingsError(f"{method} {path} responded with {status}: {response[:200]!r}")
        return response

    def _exchange(self, method: str, path: str, body: bytes, timeout: float) -> tuple[int, bytes]:
        url = urlsplit(self.origin)
        host, port = url.hostname or "", url.port
        if url.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=timeout, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request(method, path, body or None)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise TidingsError(f"the mock push service at {self.origin} does not respond: {error}") from error
        finally:
            connection.close()


def _read_receipts(body: bytes) -> Iterator[_Receipt]:
    yield from msgspec.json.Decoder(_Receipt).decode_lines(body)
