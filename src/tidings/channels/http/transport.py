"""HTTP transport: requests to a checked origin over a pinned address, with a time limit for every wait.

No proxy, redirects, referrer, cookies or decompression. A client is used for a minute. Each new client resolves and
checks the address again, so a name that changes to a private address is refused when connecting.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.response import Response

from tidings.channels.http.exchange import Exchange, HttpResponse, NoResponse, NotSent
from tidings.channels.http.origin import Origin
from tidings.channels.http.ssrf_guard import AddressRefused, resolve, resolve_public
from tidings.errors import ConfigError

#: bytes of a response's body that are read
MAX_BODY = 65_536
_RELEVANT_HEADERS = ("content-type", "date", "location", "retry-after")
#: in the causes of an error: the request was not written, because there was no connection
_CONNECT_SIGN = "client error (Connect)"

#: origin → the addresses that may be connected to, best first. Raises AddressRefused
Resolver = Callable[[Origin], Awaitable[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Limits of the transport. Times are in seconds."""

    connect_timeout: float = 5.0
    #: from connecting to the last byte read
    total_timeout: float = 15.0
    #: a client older than this is replaced, so that a changed address is noticed
    max_client_age: float = 60.0
    #: requests in flight per origin
    max_in_flight: int = 64
    #: clients kept; the number of origins is unbounded
    max_origins: int = 64


async def resolve_origin(origin: Origin) -> tuple[str, ...]:
    """Return the addresses to pin: any address of a trusted host, only public addresses of every other host."""
    if origin.is_trusted:
        return await resolve(origin.host, origin.port)
    return await resolve_public(origin.host, origin.port)


@dataclass(slots=True, eq=False)
class _OriginClient:
    """A client bound to one origin and one address."""

    http_client: Client
    created_at: float
    in_flight: int = 0
    is_retired: bool = False


class HttpTransport:
    """Posts requests. Not shared between event loops."""

    def __init__(
        self,
        *,
        ca_pem: bytes | None = None,
        ca_setting: str = "ca_file",
        limits: TransportLimits | None = None,
        resolver: Resolver = resolve_origin,
    ) -> None:
        """`ca_pem` is an additional certificate authority in PEM. Raises ConfigError for `ca_setting` if it is invalid.

        `resolver` returns the addresses of an origin.
        """
        self._ca_pem = ca_pem
        self._limits = limits or TransportLimits()
        self._resolver = resolver
        self._clients: dict[Origin, _OriginClient] = {}
        #: connection failures since the last success; the next client uses the next address
        self._connect_failures: dict[Origin, int] = {}
        self._close_tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        try:
            if ca_pem is not None:
                # pyreqwest accepts a PEM file without a certificate
                ssl.create_default_context().load_verify_locations(cadata=ca_pem.decode("ascii"))
            self._configure_builder().build()
        except (BuilderError, ValueError, ssl.SSLError) as error:
            raise ConfigError(ca_setting, "is not a PEM file with a CA certificate") from error

    async def post(self, origin: Origin, url: str, headers: Mapping[str, str], body: bytes) -> Exchange:
        """Send one request with a `Content-Length`. Redirects are returned, not followed."""
        return await self._request(origin, "POST", url, headers, body)

    async def get(self, origin: Origin, url: str, headers: Mapping[str, str]) -> Exchange:
        """Read a resource, for a check. Redirects are returned, not followed."""
        return await self._request(origin, "GET", url, headers, None)

    async def _request(
        self, origin: Origin, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Exchange:
        self._in_flight += 1
        self._is_idle.clear()
        try:
            return await self._send_checked(origin, method, url, headers, body)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._is_idle.set()

    async def _send_checked(
        self, origin: Origin, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Exchange:
        try:
            client = await self._get_client(origin)
        except AddressRefused as error:
            return NotSent(error.message)
        except TimeoutError:
            return NotSent(f"{origin.host} did not resolve in time")
        client.in_flight += 1
        try:
            return await self._send(client, origin, method, url, headers, body)
        finally:
            client.in_flight -= 1
            if client.is_retired and not client.in_flight:
                self._schedule_close(client)

    async def close(self) -> None:
        """Wait for the requests in flight, then close every connection."""
        await self._is_idle.wait()
        for client in self._clients.values():
            self._schedule_close(client)
        self._clients.clear()
        await asyncio.gather(*self._close_tasks)

    async def _send(
        self,
        client: _OriginClient,
        origin: Origin,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Exchange:
        try:
            builder = client.http_client.request(method, url).headers(headers)
            builder = builder if body is None else builder.body_bytes(body)
            request = builder.streamed_read_buffer_limit(0).build_streamed()
        except (PyreqwestError, ValueError):
            return NotSent("the URL or a header is invalid")
        try:
            async with request as response:
                self._connect_failures.pop(origin, None)
                kept = {name: value for name in _RELEVANT_HEADERS if (value := response.get_header(name)) is not None}
                return HttpResponse(response.status, kept, await _read_body(response))
        except PoolTimeoutError:
            return NotSent(f"too many requests to {origin.host} are in flight")
        except PyreqwestError as error:
            return self._explain_failure(origin, client, error)

    def _explain_failure(self, origin: Origin, client: _OriginClient, error: PyreqwestError) -> NotSent | NoResponse:
        if _has_no_connection(error):
            self._discard(origin, client)
            return NotSent(f"could not connect to {origin.host}")
        if isinstance(error, RequestTimeoutError):
            return NoResponse(f"{origin.host} did not answer within {self._limits.total_timeout:g} s")
        # without the library's message, which contains the URL: it may contain credentials
        return NoResponse(f"{origin.host} closed the connection without an answer")

    async def _get_client(self, origin: Origin) -> _OriginClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(origin)
        if client is not None and client.created_at >= loop.time() - self._limits.max_client_age:
            return client
        async with asyncio.timeout(self._limits.connect_timeout):
            addresses = await self._resolver(origin)
        address = addresses[self._connect_failures.get(origin, 0) % len(addresses)]
        http_client = (
            self._configure_builder()
            .https_only(origin.scheme == "https")
            .resolve(origin.host, address, origin.port)
            .build()
        )
        # a concurrent request may have created one too: the later one stays, both are closed when idle
        if (old := self._clients.pop(origin, None)) is not None:
            self._retire(old)
        while len(self._clients) >= self._limits.max_origins:
            self._retire(self._clients.pop(next(iter(self._clients))))
        client = self._clients[origin] = _OriginClient(http_client, loop.time())
        return client

    def _configure_builder(self) -> ClientBuilder:
        limits = self._limits
        total = timedelta(seconds=limits.total_timeout)
        builder = (
            ClientBuilder()
            .user_agent("Tidings")
            .no_proxy()
            .follow_redirects(False)
            .referer(False)
            .default_cookie_store(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .http1_only()
            .connect_timeout(timedelta(seconds=limits.connect_timeout))
            .timeout(total)
            .pool_timeout(total)
            .max_connections(limits.max_in_flight)
            .pool_max_idle_per_host(limits.max_in_flight)
        )
        return builder if self._ca_pem is None else builder.add_root_certificate_pem(self._ca_pem)

    def _discard(self, origin: Origin, client: _OriginClient) -> None:
        """Stop using a client that cannot connect. Several failures of one client count once."""
        if self._clients.get(origin) is not client:
            return
        del self._clients[origin]
        self._retire(client)
        if len(self._connect_failures) >= self._limits.max_origins:
            self._connect_failures.clear()
        self._connect_failures[origin] = self._connect_failures.get(origin, 0) + 1

    def _retire(self, client: _OriginClient) -> None:
        client.is_retired = True
        if not client.in_flight:
            self._schedule_close(client)

    def _schedule_close(self, client: _OriginClient) -> None:
        task = asyncio.create_task(client.http_client.close())
        self._close_tasks.add(task)
        task.add_done_callback(self._close_tasks.discard)


def _has_no_connection(error: PyreqwestError) -> bool:
    """Return whether connecting failed, so that nothing was written.

    The class does not tell: pyreqwest 0.15 raises ConnectError and ConnectTimeoutError for everything that happens
    before the response, also after the request was written.
    """
    if not isinstance(error, DetailedPyreqwestError):
        return False
    return any(_CONNECT_SIGN in cause["message"] for cause in error.details.get("causes") or ())


async def _read_body(response: Response) -> bytes:
    """Return the first 64 KB of a body, less if reading fails: the status alone is sufficient."""
    chunks: list[bytes] = []
    size = 0
    while size < MAX_BODY:
        try:
            chunk = await response.body_reader.read(MAX_BODY - size)
        except PyreqwestError:
            break
        if chunk is None:
            break
        chunks.append(chunk.to_bytes())
        size += len(chunks[-1])
    return b"".join(chunks)[:MAX_BODY]
