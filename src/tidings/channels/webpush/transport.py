"""HTTP transport: POST to an allowed origin over a pinned address, with a timeout for every wait.

The only module that uses pyreqwest. HTTP/2 where the service supports it (ALPN); no proxy, redirects, referrer or
decompression. A client is used for a minute. Each new client resolves and checks the address again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ClientClosedError,
    ConnectError,
    DetailedPyreqwestError,
    PyreqwestError,
    RequestTimeoutError,
)
from pyreqwest.response import Response

from tidings.channels.http.ssrf_guard import AddressRefused, resolve, resolve_public
from tidings.channels.webpush.endpoint_allowlist import Origin
from tidings.channels.webpush.push_exchange import NoResponse, PushResponse
from tidings.errors import ConfigError

#: bytes of an error response's body that are read
MAX_ERROR_BODY = 4096
_RELEVANT_HEADERS = ("date", "retry-after", "www-authenticate", "x-wns-status", "x-wns-error-description")

#: how often a request is repeated that the service did not process; the first repeats come without a delay
MAX_REPEATS, MAX_IMMEDIATE_REPEATS = 50, 10
#: no repeat begins after this share of the total timeout
MAX_REPEAT_SHARE = 0.8
#: seconds between later repeats
REPEAT_DELAY = 0.05
#: in the causes of an error: GOAWAY without an error, for a stream after the last one that was processed; a refused
#: stream (RFC 9113 §6.8, §8.7); a request that was still queued when the connection closed, in two forms
_UNPROCESSED_SIGNS = (
    "connection error received: not a result of an error",
    "refused stream before processing any application logic",
    "operation was canceled",
    "dispatch task is gone",
)

#: origin → the addresses that may be connected to, best first. Raises AddressRefused
Resolver = Callable[[Origin], Awaitable[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Limits of the transport. Times are in seconds."""

    connect_timeout: float = 5.0
    #: from connecting to the last byte read. Push services answer within a second, and a hanging send occupies a slot
    total_timeout: float = 10.0
    #: a client older than this is replaced, so that a changed address is noticed
    max_client_age: float = 60.0
    #: requests in flight per origin, and idle connections kept. With HTTP/1.1 each request has its own connection, and
    #: occasionally there is one more (measured: 9 of 8 in 4 bursts of 150), opened while another became free
    max_in_flight: int = 256
    #: clients kept; the number of origins is unbounded because of wildcard hosts
    max_origins: int = 64
    #: seconds until an origin that did not resolve is resolved again
    resolve_retry_delay: float = 2.0


async def resolve_origin(origin: Origin) -> tuple[str, ...]:
    """Return the addresses to pin: any address of a configured host, only public addresses of every other host."""
    if origin.is_configured:
        return await resolve(origin.host, origin.port)
    return await resolve_public(origin.host, origin.port)


@dataclass(slots=True, eq=False)
class _OriginClient:
    """A client bound to one origin and one address."""

    http_client: Client
    created_at: float
    #: set once there is a connection: until then one request (the leader) connects and the others wait for it
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    is_leader_elected: bool = False
    #: whether it speaks HTTP/2 without negotiation, so that requests during a reconnection share one new connection
    is_http2_only: bool = False
    #: why the leader could not connect: the requests that waited for it fail too instead of trying again
    connect_failure: NoResponse | None = None
    in_flight: int = 0
    is_retired: bool = False


class Transport:
    """Posts requests to push services. Not shared between event loops."""

    def __init__(
        self, *, ca_pem: bytes | None = None, limits: TransportLimits | None = None, resolver: Resolver = resolve_origin
    ) -> None:
        """`ca_pem` is an additional certificate authority in PEM. Raises ConfigError if it is invalid."""
        self._ca_pem = ca_pem
        self._limits = limits or TransportLimits()
        self._resolver = resolver
        self._clients: dict[Origin, _OriginClient] = {}
        self._client_tasks: dict[Origin, asyncio.Task[_OriginClient | NoResponse]] = {}
        self._resolve_failures: dict[Origin, tuple[float, NoResponse]] = {}
        #: connection failures since the last success; the next client uses the next address
        self._connect_failures: dict[Origin, int] = {}
        #: origins that negotiated HTTP/2
        self._http2_origins: set[Origin] = set()
        self._close_tasks: set[asyncio.Task[None]] = set()
        try:
            self._configure_builder().build()
        except (BuilderError, ValueError) as error:
            raise ConfigError("TIDINGS_PUSH_CA_FILE", "is not a PEM file with a CA certificate") from error

    async def post(
        self, origin: Origin, url: str, headers: Mapping[str, str], body: bytes
    ) -> PushResponse | NoResponse:
        """Send one request with a `Content-Length` and return the response, or why there is none.

        A request that the service certainly did not process is repeated at once: HTTP/2 services end each connection
        after some number of requests, and reject those that are queued on it (RFC 9113 §6.8).
        """
        loop = asyncio.get_running_loop()
        repeat_until = loop.time() + self._limits.total_timeout * MAX_REPEAT_SHARE
        for repeat in range(MAX_REPEATS + 1):
            if repeat > MAX_IMMEDIATE_REPEATS:
                await asyncio.sleep(REPEAT_DELAY)
            response = await self._post_once(origin, url, headers, body)
            is_processed = not (isinstance(response, NoResponse) and response.is_unprocessed)
            if is_processed or loop.time() >= repeat_until:
                break
        return response

    async def _post_once(
        self, origin: Origin, url: str, headers: Mapping[str, str], body: bytes
    ) -> PushResponse | NoResponse:
        origin_client = self._clients.get(origin)
        oldest_allowed = asyncio.get_running_loop().time() - self._limits.max_client_age
        if origin_client is None or origin_client.created_at < oldest_allowed:
            created = await self._get_or_create_client(origin)
            if isinstance(created, NoResponse):
                return created
            origin_client = created
        origin_client.in_flight += 1
        try:
            if not origin_client.connected.is_set():
                return await self._post_while_connecting(origin_client, origin, url, headers, body)
            return await self._send_request(origin_client, origin, url, headers, body)
        finally:
            origin_client.in_flight -= 1
            if origin_client.is_retired and not origin_client.in_flight:
                self._schedule_close(origin_client)

    async def close(self) -> None:
        """Close every connection."""
        creating = list(self._client_tasks.values())
        for task in creating:
            task.cancel()
        await asyncio.gather(*creating, return_exceptions=True)
        for origin_client in self._clients.values():
            self._schedule_close(origin_client)
        self._clients.clear()
        await asyncio.gather(*self._close_tasks)

    async def _post_while_connecting(
        self, origin_client: _OriginClient, origin: Origin, url: str, headers: Mapping[str, str], body: bytes
    ) -> PushResponse | NoResponse:
        """Let one request open the connection: otherwise each opens its own before HTTP/2 is negotiated."""
        if origin_client.is_leader_elected:
            try:
                # slightly longer than the leader's connect timeout, so that its failure is seen first
                async with asyncio.timeout(self._limits.connect_timeout * 1.1):
                    await origin_client.connected.wait()
            except TimeoutError:
                # the leader is connected but its response is slow: stop waiting for it
                origin_client.connected.set()
            return origin_client.connect_failure or await self._send_request(origin_client, origin, url, headers, body)
        origin_client.is_leader_elected = True
        try:
            return await self._send_request(origin_client, origin, url, headers, body)
        finally:
            origin_client.connected.set()

    async def _send_request(
        self, origin_client: _OriginClient, origin: Origin, url: str, headers: Mapping[str, str], body: bytes
    ) -> PushResponse | NoResponse:
        try:
            request = (
                origin_client.http_client.post(url)
                .headers(headers)
                .body_bytes(body)
                .streamed_read_buffer_limit(0)
                .build_streamed()
            )
            async with request as response:
                # headers have arrived: requests that wait for the connection need not wait for the body
                origin_client.connected.set()
                self._connect_failures.pop(origin, None)
                if not origin_client.is_http2_only and response.version == "HTTP/2.0":
                    self._http2_origins.add(origin)
                status = response.status
                kept_headers = {
                    name: value for name in _RELEVANT_HEADERS if (value := response.get_header(name)) is not None
                }
                return PushResponse(status, kept_headers, "" if 200 <= status < 300 else await _read_excerpt(response))
        except PyreqwestError as error:
            return self._explain_failure(origin_client, origin, error)

    def _explain_failure(self, origin_client: _OriginClient, origin: Origin, error: PyreqwestError) -> NoResponse:
        if _is_unprocessed(error):
            if not origin_client.is_http2_only and origin in self._http2_origins:
                # Measured with 200 requests in flight and GOAWAY after 100: 150 connections per reconnection with
                # negotiation, because each waiting request opens one; one connection without it.
                self._replace_client(origin, origin_client)
            return NoResponse(f"{origin.host} closed the connection before the request", is_unprocessed=True)
        if isinstance(error, ConnectError):
            self._discard_failed_client(origin, origin_client)
            failure = NoResponse(f"could not connect to {origin.host}")
            if not origin_client.connected.is_set():
                origin_client.connect_failure = failure
            return failure
        if isinstance(error, RequestTimeoutError):
            return NoResponse(f"{origin.host} did not answer within {self._limits.total_timeout:g} s")
        # only the class: the library's messages and causes contain the URL, which is a capability
        return NoResponse(f"the connection to {origin.host} failed ({type(error).__name__})")

    async def _get_or_create_client(self, origin: Origin) -> _OriginClient | NoResponse:
        """Return a new client. Concurrent callers share one creation."""
        failure = self._resolve_failures.get(origin)
        if failure is not None:
            retry_at, reason = failure
            if asyncio.get_running_loop().time() < retry_at:
                return reason
            del self._resolve_failures[origin]
        task = self._client_tasks.get(origin)
        if task is None:
            task = asyncio.create_task(self._create_client(origin))
            self._client_tasks[origin] = task
            task.add_done_callback(lambda _: self._client_tasks.pop(origin, None))
        # shielded: the cancellation of one caller must not cancel the creation for the others
        return await asyncio.shield(task)

    async def _create_client(self, origin: Origin) -> _OriginClient | NoResponse:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                addresses = await self._resolver(origin)
        except (AddressRefused, TimeoutError) as error:
            why = error.message if isinstance(error, AddressRefused) else f"{origin.host} did not resolve in time"
            if len(self._resolve_failures) >= self._limits.max_origins:
                self._resolve_failures.clear()
            self._resolve_failures[origin] = (loop.time() + self._limits.resolve_retry_delay, NoResponse(why))
            return NoResponse(why)
        address = addresses[self._connect_failures.get(origin, 0) % len(addresses)]
        is_http2_only = origin in self._http2_origins
        builder = self._configure_builder()
        client = (
            (builder.http2_prior_knowledge() if is_http2_only else builder.http2(True))
            .https_only(origin.scheme == "https")
            .resolve(origin.host, address, origin.port)
            .build()
        )
        old = self._clients.pop(origin, None)
        if old is not None:
            self._close_when_idle(old)
        if len(self._http2_origins) > self._limits.max_origins:
            self._http2_origins.clear()
        while len(self._clients) >= self._limits.max_origins:
            self._close_when_idle(self._clients.pop(next(iter(self._clients))))
        origin_client = self._clients[origin] = _OriginClient(client, loop.time(), is_http2_only=is_http2_only)
        return origin_client

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
            .connect_timeout(timedelta(seconds=limits.connect_timeout))
            .timeout(total)
            .pool_timeout(total)
            .max_connections(limits.max_in_flight)
            .pool_max_idle_per_host(limits.max_in_flight)
        )
        return builder if self._ca_pem is None else builder.add_root_certificate_pem(self._ca_pem)

    def _discard_failed_client(self, origin: Origin, origin_client: _OriginClient) -> None:
        """Stop using a client that cannot connect. Several failures of one client count once."""
        # the service may not speak HTTP/2 any more
        self._http2_origins.discard(origin)
        if self._replace_client(origin, origin_client):
            if len(self._connect_failures) >= self._limits.max_origins:
                self._connect_failures.clear()
            self._connect_failures[origin] = self._connect_failures.get(origin, 0) + 1

    def _replace_client(self, origin: Origin, origin_client: _OriginClient) -> bool:
        """Have the next request create a client. Return False if that has been done already."""
        if self._clients.get(origin) is not origin_client:
            return False
        del self._clients[origin]
        self._close_when_idle(origin_client)
        return True

    def _close_when_idle(self, origin_client: _OriginClient) -> None:
        """Close a client after its last request."""
        origin_client.is_retired = True
        if not origin_client.in_flight:
            self._schedule_close(origin_client)

    def _schedule_close(self, origin_client: _OriginClient) -> None:
        task = asyncio.create_task(origin_client.http_client.close())
        self._close_tasks.add(task)
        task.add_done_callback(self._close_tasks.discard)


def _is_unprocessed(error: PyreqwestError) -> bool:
    """Return whether the service certainly did not process a request, as far as the causes of the error show it."""
    if isinstance(error, ClientClosedError):
        # it was replaced while the request waited for its connection
        return True
    if not isinstance(error, DetailedPyreqwestError):
        return False
    causes = [cause["message"].lower() for cause in error.details.get("causes") or ()]
    return any(sign in cause for cause in causes for sign in _UNPROCESSED_SIGNS)


async def _read_excerpt(response: Response) -> str:
    """Return the first 4 KB of a body as text, an empty text if reading fails."""
    try:
        chunk = await response.body_reader.read(MAX_ERROR_BODY)
    except PyreqwestError:
        # the status alone is sufficient
        return ""
    return "" if chunk is None else chunk.to_bytes().decode("utf-8", "replace")
