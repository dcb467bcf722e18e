"""`tidings bench accept`: the rate at which notifications are accepted, singly and in bulk.

It runs the server (on PostgreSQL `tidings api` and one `tidings worker`) with a real database; the load comes from this
process. The users have no devices, so only accepting and the concurrent planning are measured. Figures are of one run:
run it several times and compare medians.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from tidings.bench.audience import add_users, analyze
from tidings.bench.backends import require_empty_database, select_backends
from tidings.bench.load_client import build_post_request, send_all
from tidings.bench.report import Latency, to_camel_case
from tidings.bench.server_process import API_KEY, RunningServer, run_server
from tidings.config.settings import Settings
from tidings.container import AppContainer

#: users that the notifications are addressed to
_USER_COUNT = 10_000
#: recipients of one `userIds` request, and of one NDJSON line
_USERS_PER_REQUEST, _USERS_PER_LINE = 10_000, 100
#: lines of one NDJSON request
_LINES_PER_REQUEST = 1_000
_SINGLE_PATH, _BULK_PATH = "/api/notifications", "/api/notifications/batch"
_NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class SingleResult:
    """Figures of requests with one notification each."""

    requests: int
    per_second: float
    latency_ms: Latency
    #: CPU time of all server processes per request, including planning, in milliseconds
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class BulkResult:
    """Figures of requests with many recipients."""

    requests: int
    recipients: int
    recipients_per_second: float


@dataclass(frozen=True, slots=True)
class AcceptBenchResult:
    """The figures of one run of `tidings bench accept`. Field names are those of the JSON output, in snake case."""

    clients: int
    #: without an `Idempotency-Key`, and with one per request
    singles: SingleResult
    with_key: SingleResult
    #: `userIds` with 10 000 users per request
    named: BulkResult
    #: NDJSON, 100 users per line
    lines: BulkResult
    #: NDJSON, one user per line
    single_lines: BulkResult
    database: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(*, requests: int, clients: int, recipients: int, folder: Path | None = None) -> AcceptBenchResult:
    """Send `requests` single notifications from `clients` concurrent callers, without and with a key, then bulk ones.

    Arguments: recipients — number for each kind of bulk request; folder — parent of the data folder (default: the
    system's folder for temporary files). The database is a new SQLite file, or that of `TIDINGS_DATABASE` and
    `TIDINGS_REDIS`.
    Raises ConfigError for a database that is in use, TidingsError if the server does not start or rejects a request.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with select_backends(Path(data)) as backends:
            user_ids = await _prepare_users(backends.settings)
            async with run_server(backends, workers=1 if backends.is_scaled else 0) as server:
                await send_all(server.base_url, _build_single_requests(user_ids, 500), clients=clients)  # warm up
                return AcceptBenchResult(
                    clients=clients,
                    singles=await _measure_singles(server, _build_single_requests(user_ids, requests), clients),
                    with_key=await _measure_singles(
                        server, _build_single_requests(user_ids, requests, keyed=True), clients
                    ),
                    named=await _measure_bulk(server, _build_user_id_requests(user_ids, recipients), recipients),
                    lines=await _measure_bulk(
                        server, _build_ndjson_requests(user_ids, recipients, _USERS_PER_LINE), recipients
                    ),
                    single_lines=await _measure_bulk(
                        server, _build_ndjson_requests(user_ids, recipients // 10, 1), recipients // 10
                    ),
                    database=backends.database,
                    cores=os.cpu_count() or 1,
                )


async def _prepare_users(settings: Settings) -> Sequence[str]:
    async with AppContainer.open(settings) as runtime:
        await require_empty_database(runtime)
        ids = await add_users(runtime, _USER_COUNT)
        await analyze(runtime)
        return ids


async def _measure_singles(server: RunningServer, requests: Sequence[bytes], clients: int) -> SingleResult:
    before = server.cpu_seconds()
    load = await send_all(server.base_url, requests, clients=clients)
    cpu_seconds = server.cpu_seconds() - before
    return SingleResult(
        requests=len(requests),
        per_second=round(len(requests) / load.seconds, 1),
        latency_ms=Latency.from_milliseconds(load.latencies_ms),
        cpu_ms=round(cpu_seconds / len(requests) * 1000, 3),
    )


async def _measure_bulk(server: RunningServer, requests: Sequence[bytes], recipients: int) -> BulkResult:
    load = await send_all(server.base_url, requests, clients=2)
    return BulkResult(len(requests), recipients, round(recipients / load.seconds, 1))


def _build_single_requests(user_ids: Sequence[str], count: int, *, keyed: bool = False) -> list[bytes]:
    return [
        build_post_request(
            _SINGLE_PATH,
            _build_body({"userId": user_ids[number % len(user_ids)]}, number),
            key=API_KEY,
            idempotency_key=f"bench-{number}" if keyed else None,
        )
        for number in range(count)
    ]


def _build_user_id_requests(user_ids: Sequence[str], recipients: int) -> list[bytes]:
    starts = range(0, recipients, _USERS_PER_REQUEST)
    ids_per_request = (list(user_ids[: min(_USERS_PER_REQUEST, recipients - start)]) for start in starts)
    return [
        build_post_request(_BULK_PATH, _build_body({"userIds": ids}, number), key=API_KEY)
        for number, ids in enumerate(ids_per_request)
    ]


def _build_ndjson_requests(user_ids: Sequence[str], recipients: int, per_line: int) -> list[bytes]:
    lines = [
        _build_body({"userIds": [user_ids[(start + offset) % len(user_ids)] for offset in range(per_line)]}, start)
        for start in range(0, recipients, per_line)
    ]
    return [
        build_post_request(
            _BULK_PATH, b"\n".join(lines[start : start + _LINES_PER_REQUEST]), key=API_KEY, media_type=_NDJSON
        )
        for start in range(0, len(lines), _LINES_PER_REQUEST)
    ]


def _build_body(recipients: Mapping[str, object], number: int) -> bytes:
    variables = {"title": "Doors open at seven", "body": f"See you tonight, No {number}."}
    return msgspec.json.encode({**recipients, "templateCode": "MESSAGE", "variables": variables})
