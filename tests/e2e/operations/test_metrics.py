"""Metrics are summed over all processes, and no counter decreases when a process is killed."""

import asyncio
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation
from tests.support.server import TidingsServer, eventually

from tidings.mockpush import ResponseRule

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.parametrize("site", ["fleet"], indirect=True),
]

ATTEMPTS = "tidings_attempts_total"
USERS = [f"count-{number:02}" for number in range(30)]


async def read_counters(process: TidingsServer) -> Mapping[str, float]:
    """Return all counter series as exposed by one process."""
    text = (await process.expect(200, "GET", "/metrics", token=None)).body.decode()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        if family.type in {"counter", "histogram"}
        for sample in family.samples
    }


def total(shown: Mapping[str, float], name: str, label: str = "") -> float:
    return sum(value for series, value in shown.items() if series.startswith(name) and label in series)


async def test_each_process_exposes_the_total_of_all(site: Installation) -> None:
    await site.register_users(*USERS)
    processes = [site.api, *site.workers]
    before = await read_counters(site.api)
    sent = (await site.push_service.control.stats()).accepted
    await site.push_service.control.set_rules(ResponseRule(status=403, device=USERS[0]))
    ids = [await site.send_message(*USERS[start : start + 6]) for start in range(0, 30, 6)]
    for notification in ids:
        await site.api.wait_until_finished(notification)
    sent = (await site.push_service.control.stats()).accepted - sent
    assert sent == 29

    async def all_agree() -> bool:
        rises = [await read_counters(process) for process in processes]
        delivered = {total(shown, ATTEMPTS, "'delivered'") - total(before, ATTEMPTS, "'delivered'") for shown in rises}
        refused = {total(shown, ATTEMPTS, "'refused'") - total(before, ATTEMPTS, "'refused'") for shown in rises}
        timed = {
            total(shown, "tidings_send_seconds_count") - total(before, "tidings_send_seconds_count") for shown in rises
        }
        return (delivered, refused, timed) == ({sent}, {1.0}, {sent + 1})

    await eventually(all_agree)

    async def dead_letter_is_shown() -> bool:
        text = (await site.workers[0].expect(200, "GET", "/metrics", token=None)).body.decode()
        found = [family for family in text_string_to_metric_families(text) if family.name == "tidings_dead_letters"]
        return [sample.value >= 1 for family in found for sample in family.samples] == [True]

    await eventually(dead_letter_is_shown)


async def test_counters_neither_decrease_nor_double_count_when_a_sender_is_killed(site: Installation) -> None:
    own = {name: value for name, value in site.api.environment.items() if name.startswith("TIDINGS_")}
    # a separate database: leased deliveries of a killed process are sent a minute later, in the middle of other tests
    own |= {"TIDINGS_DATABASE": site.postgres.create_database(), "TIDINGS_REDIS": ""}
    ended = asyncio.Event()
    decreased: list[str] = []

    async def watch() -> int:
        looks, last = 0, await read_counters(site.api)
        while not ended.is_set():
            shown = await read_counters(site.api)
            decreased.extend(series for series, value in last.items() if shown.get(series, -1.0) < value)
            looks, last = looks + 1, shown
        return looks

    async with ServerProcess("serve", site.api.data_dir, settings=own) as killed:
        other = Installation(killed, [killed], site.push_service, site.backends)
        await other.register_users(*USERS)
        await site.push_service.control.set_rules(ResponseRule(delay_ms=100))
        before = await read_counters(site.api)
        watching = asyncio.create_task(watch())
        received = (await site.push_service.control.stats()).received
        await other.send_message(*USERS)
        await site.push_service.control.wait_for(received=received + 5, timeout=30)
        await killed.kill()
        await killed.start()
        after = await read_counters(killed)
        [(recorded,)] = await other.query("SELECT count(*) FROM attempts WHERE outcome = 'delivered'")
        ended.set()
        assert await watching > 2
    assert decreased == []
    # outcomes that the process recorded but had not yet counted are never counted
    assert total(after, ATTEMPTS, "'delivered'") - total(before, ATTEMPTS, "'delivered'") <= recorded
    assert total(after, "tidings_http_requests_total") > total(before, "tidings_http_requests_total")
