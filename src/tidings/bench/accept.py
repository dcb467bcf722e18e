"""`tidings bench accept`: how fast notifications are accepted, one by one and in bulk.

This process, the server (on PostgreSQL `tidings api` and one `tidings worker`), and a real database. The users have no
devices: what is measured is accepting, while a worker plans what was accepted beside it. Figures are of one run: run it
several times and compare medians.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from tidings.bench.backends import backends, refuse_used
from tidings.bench.connections import call_all, post
from tidings.bench.figures import Latency, camel
from tidings.bench.people import add_users, analyze
from tidings.bench.serving import API_KEY, Served, serving
from tidings.runtime import Runtime
from tidings.settings import Settings

#: users that the notifications are for
_PEOPLE = 10_000
#: recipients named in one request, or one line
_NAMED, _NAMED_IN_LINE = 10_000, 100
#: lines of one NDJSON request
_LINES = 1_000
_SINGLES, _BULK = "/api/notifications", "/api/notifications/batch"
_NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Singles:
    """Requests of one notification each."""

    requests: int
    per_second: float
    latency_ms: Latency
    #: CPU time of all processes per request, planning included, in milliseconds
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Bulk:
    """Requests that tell many."""

    requests: int
    recipients: int
    recipients_per_second: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of `tidings bench accept` measured. Field names are those of the JSON output, in snake case."""

    clients: int
    #: each without an `Idempotency-Key`, then each with one
    singles: Singles
    with_key: Singles
    #: `userIds` with 10 000 users a request
    named: Bulk
    #: NDJSON, 100 users a line
    lines: Bulk
    #: NDJSON, one user a line
    single_lines: Bulk
    database: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return camel(asdict(self))


async def run(*, requests: int, clients: int, recipients: int, folder: Path | None = None) -> Figures:
    """Measure `requests` single notifications from `clients` callers at once, with and without a key, then bulk.

    recipients: told by the bulk requests of each kind. folder: where the data go (default: a temporary one). The
    database is a new SQLite file, or what `TIDINGS_DATABASE` and `TIDINGS_REDIS` name.
    Raises ConfigError for a database that is in use, TidingsError when the server does not start or refuses.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with backends(Path(data)) as chosen:
            people = await _people(chosen.settings)
            async with serving(chosen, workers=1 if chosen.scaled else 0) as server:
                await call_all(server.base_url, _singles(people, 500), clients=clients)  # warm up
                return Figures(
                    clients=clients,
                    singles=await _measured(server, _singles(people, requests), clients),
                    with_key=await _measured(server, _singles(people, requests, keyed=True), clients),
                    named=await _bulk(server, _named(people, recipients), recipients),
                    lines=await _bulk(server, _lines(people, recipients, _NAMED_IN_LINE), recipients),
                    single_lines=await _bulk(server, _lines(people, recipients // 10, 1), recipients // 10),
                    database=chosen.database,
                    cores=os.cpu_count() or 1,
                )


async def _people(settings: Settings) -> Sequence[str]:
    async with Runtime.open(settings) as runtime:
        await refuse_used(runtime)
        ids = await add_users(runtime, _PEOPLE)
        await analyze(runtime)
        return ids


async def _measured(server: Served, requests: Sequence[bytes], clients: int) -> Singles:
    before = server.cpu_seconds()
    answered = await call_all(server.base_url, requests, clients=clients)
    spent = server.cpu_seconds() - before
    return Singles(
        requests=len(requests),
        per_second=round(len(requests) / answered.seconds, 1),
        latency_ms=Latency.of(answered.took_ms),
        cpu_ms=round(spent / len(requests) * 1000, 3),
    )


async def _bulk(server: Served, requests: Sequence[bytes], recipients: int) -> Bulk:
    answered = await call_all(server.base_url, requests, clients=2)
    return Bulk(len(requests), recipients, round(recipients / answered.seconds, 1))


def _singles(people: Sequence[str], count: int, *, keyed: bool = False) -> list[bytes]:
    return [
        post(
            _SINGLES,
            _body({"userId": people[number % len(people)]}, number),
            key=API_KEY,
            once=f"bench-{number}" if keyed else None,
        )
        for number in range(count)
    ]


def _named(people: Sequence[str], recipients: int) -> list[bytes]:
    starts = range(0, recipients, _NAMED)
    told = (list(people[: min(_NAMED, recipients - start)]) for start in starts)
    return [post(_BULK, _body({"userIds": one}, number), key=API_KEY) for number, one in enumerate(told)]


def _lines(people: Sequence[str], recipients: int, per_line: int) -> list[bytes]:
    lines = [
        _body({"userIds": [people[(start + place) % len(people)] for place in range(per_line)]}, start)
        for start in range(0, recipients, per_line)
    ]
    return [
        post(_BULK, b"\n".join(lines[start : start + _LINES]), key=API_KEY, media_type=_NDJSON)
        for start in range(0, len(lines), _LINES)
    ]


def _body(whom: Mapping[str, object], number: int) -> bytes:
    words = {"title": "Doors open at seven", "body": f"See you tonight, No {number}."}
    return msgspec.json.encode({**whom, "templateCode": "MESSAGE", "variables": words})
