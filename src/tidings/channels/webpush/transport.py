"""The one file around pyreqwest: POST to an allowed origin over a pinned address, with every wait bounded.

HTTP/2 where the service speaks it (ALPN), no proxy, no redirects, no referrer, no decompression. The address is
looked up and judged again each time a client is made, and a client lives for a minute.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, ConnectError, PyreqwestError, RequestTimeoutError
from pyreqwest.response import Response

from tidings.channels.webpush.addresses import AddressRefused, resolve, resolve_public
from tidings.channels.webpush.answer import Answer, NoAnswer
from tidings.channels.webpush.endpoints import Origin
from tidings.errors import ConfigError

#: how much of an error's body is read
EXCERPT = 4096
_KEPT_HEADERS = ("retry-after", "x-wns-status", "x-wns-error-description")

#: origin → the addresses that may be connected to, best first; raises AddressRefused
Resolver = Callable[[Origin], Awaitable[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the transport; times in seconds."""

    connect: float = 5.0
    #: from connecting to the last byte read; push services answer within a second, and what hangs holds a place
    total: float = 10.0
    #: a client older than this is replaced, so that a changed address is seen
    client_life: float = 60.0
    #: requests in flight per origin, and idle connections kept. With HTTP/1.1 each has its own connection, and now
    #: and then one more stands (measured: 9 of 8 in 4 crowds of 150): opened while another became free
    in_flight: int = 256
    #: clients kept; wildcard hosts make the number of origins open-ended
    origins: int = 64
    #: an origin that could not be looked up is not tried again for so long
    unresolved: float = 2.0


async def resolve_origin(origin: Origin) -> tuple[str, ...]:
    """Return the addresses to pin: of a configured host any, of every other only public ones."""
    if origin.configured:
        return await resolve(origin.host, origin.port)
    return await resolve_public(origin.host, origin.port)


@dataclass(slots=True, eq=False)
class _Pinned:
    """A client bound to one origin and one address."""

    client: Client
    born: float
    #: set once a connection stands: until then one request leads and the rest wait for it to join its connection
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    led: bool = False
    #: why the leader could not connect: those who waited for it do not all try the same in vain
    failed: NoAnswer | None = None
    in_flight: int = 0
    retired: bool = False


class Transport:
    """Posts to push services. Belongs to one event loop."""

    def __init__(
        self, *, ca_pem: bytes | None = None, limits: Limits | None = None, resolver: Resolver = resolve_origin
    ) -> None:
        """`ca_pem` is one more certificate authority. Raises ConfigError if it cannot be read."""
        self._ca_pem = ca_pem
        self._limits = limits or Limits()
        self._resolver = resolver
        self._pinned: dict[Origin, _Pinned] = {}
        self._opening: dict[Origin, asyncio.Task[_Pinned | NoAnswer]] = {}
        self._refused: dict[Origin, tuple[float, NoAnswer]] = {}
        #: connection failures since the last success: the next client takes the next address
        self._failures: dict[Origin, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        try:
            self._builder().build()
        except (BuilderError, ValueError) as error:
            raise ConfigError("TIDINGS_PUSH_CA_FILE", "is not a PEM file with a CA certificate") from error

    async def post(self, origin: Origin, url: str, headers: Mapping[str, str], body: bytes) -> Answer | NoAnswer:
        """Send one request with a `Content-Length` and return the answer, or why there is none."""
        pinned = self._pinned.get(origin)
        if pinned is None or asyncio.get_running_loop().time() - pinned.born > self._limits.client_life:
            opened = await self._open(origin)
            if isinstance(opened, NoAnswer):
                return opened
            pinned = opened
        pinned.in_flight += 1
        try:
            if not pinned.ready.is_set():
                return await self._post_first(pinned, origin, url, headers, body)
            return await self._exchange(pinned, origin, url, headers, body)
        finally:
            pinned.in_flight -= 1
            if pinned.retired and not pinned.in_flight:
                self._close_later(pinned)

    async def close(self) -> None:
        """Close every connection."""
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for pinned in self._pinned.values():
            self._close_later(pinned)
        self._pinned.clear()
        await asyncio.gather(*self._closing)

    async def _post_first(
        self, pinned: _Pinned, origin: Origin, url: str, headers: Mapping[str, str], body: bytes
    ) -> Answer | NoAnswer:
        """Let one request open the connection: a crowd would open one each before HTTP/2 is agreed on."""
        if pinned.led:
            try:
                # a little longer than the leader may take to connect, so as to learn that it could not
                async with asyncio.timeout(self._limits.connect * 1.1):
                    await pinned.ready.wait()
            except TimeoutError:
                # connected, but slow to answer: each goes on its own
                pinned.ready.set()
            return pinned.failed or await self._exchange(pinned, origin, url, headers, body)
        pinned.led = True
        try:
            return await self._exchange(pinned, origin, url, headers, body)
        finally:
            pinned.ready.set()

    async def _exchange(
        self, pinned: _Pinned, origin: Origin, url: str, headers: Mapping[str, str], body: bytes
    ) -> Answer | NoAnswer:
        try:
            request = (
                pinned.client.post(url).headers(headers).body_bytes(body).streamed_read_buffer_limit(0).build_streamed()
            )
            async with request as response:
                # headers are there: whoever waits for the connection need not wait for the body
                pinned.ready.set()
                self._failures.pop(origin, None)
                status = response.status
                kept = {name: value for name in _KEPT_HEADERS if (value := response.get_header(name)) is not None}
                return Answer(status, kept, "" if 200 <= status < 300 else await _excerpt(response))
        except ConnectError:
            self._retire(origin, pinned)
            failure = NoAnswer(f"{origin.host} could not be connected to")
            if not pinned.ready.is_set():
                pinned.failed = failure
            return failure
        except RequestTimeoutError:
            return NoAnswer(f"{origin.host} did not answer within {self._limits.total:g} s")
        except PyreqwestError as error:
            # the class alone: messages and causes of the library name the URL, which is a capability
            return NoAnswer(f"the connection to {origin.host} failed ({type(error).__name__})")

    async def _open(self, origin: Origin) -> _Pinned | NoAnswer:
        """Return a new client, made once however many wait for it."""
        refused = self._refused.get(origin)
        if refused is not None:
            if asyncio.get_running_loop().time() < refused[0]:
                return refused[1]
            del self._refused[origin]
        task = self._opening.get(origin)
        if task is None:
            task = asyncio.create_task(self._make(origin))
            self._opening[origin] = task
            task.add_done_callback(lambda _: self._opening.pop(origin, None))
        # shielded: one caller that is cancelled must not take the client away from the others
        return await asyncio.shield(task)

    async def _make(self, origin: Origin) -> _Pinned | NoAnswer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect):
                addresses = await self._resolver(origin)
        except (AddressRefused, TimeoutError) as error:
            why = error.message if isinstance(error, AddressRefused) else f"{origin.host} does not resolve in time"
            if len(self._refused) >= self._limits.origins:
                self._refused.clear()
            self._refused[origin] = (loop.time() + self._limits.unresolved, NoAnswer(why))
            return NoAnswer(why)
        address = addresses[self._failures.get(origin, 0) % len(addresses)]
        client = self._builder().https_only(origin.scheme == "https").resolve(origin.host, address, origin.port).build()
        old = self._pinned.pop(origin, None)
        if old is not None:
            self._let_go(old)
        while len(self._pinned) >= self._limits.origins:
            self._let_go(self._pinned.pop(next(iter(self._pinned))))
        pinned = self._pinned[origin] = _Pinned(client, loop.time())
        return pinned

    def _builder(self) -> ClientBuilder:
        limits = self._limits
        total = timedelta(seconds=limits.total)
        builder = (
            ClientBuilder()
            .user_agent("Tidings")
            .http2(True)
            .no_proxy()
            .follow_redirects(False)
            .referer(False)
            .default_cookie_store(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .connect_timeout(timedelta(seconds=limits.connect))
            .timeout(total)
            .pool_timeout(total)
            .max_connections(limits.in_flight)
            .pool_max_idle_per_host(limits.in_flight)
        )
        return builder if self._ca_pem is None else builder.add_root_certificate_pem(self._ca_pem)

    def _retire(self, origin: Origin, pinned: _Pinned) -> None:
        """Take a client that cannot connect out of use; a crowd of failures on it counts once."""
        if self._pinned.get(origin) is pinned:
            del self._pinned[origin]
            if len(self._failures) >= self._limits.origins:
                self._failures.clear()
            self._failures[origin] = self._failures.get(origin, 0) + 1
            self._let_go(pinned)

    def _let_go(self, pinned: _Pinned) -> None:
        """Close a client when its last request has ended."""
        pinned.retired = True
        if not pinned.in_flight:
            self._close_later(pinned)

    def _close_later(self, pinned: _Pinned) -> None:
        task = asyncio.create_task(pinned.client.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _excerpt(response: Response) -> str:
    """Return the first 4 KB of a body as text, empty if it does not come; the rest is left unread."""
    try:
        chunk = await response.body_reader.read(EXCERPT)
    except PyreqwestError:
        # the status is known and says enough
        return ""
    return "" if chunk is None else chunk.to_bytes().decode("utf-8", "replace")
