"""The metrics of several processes are one sum, and no counter ever falls, whoever is killed (Health and metrics)."""

import asyncio
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidings.testing.fleet import Member
from tidings.testing.installation import Installation
from tidings.testing.mock_push import Rule
from tidings.testing.server import TidingsServer, eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.parametrize("site", ["fleet"], indirect=True),
]

ATTEMPTS = "tidings_attempts_total"
PEOPLE = [f"count-{number:02}" for number in range(30)]


async def counters(member: TidingsServer) -> Mapping[str, float]:
    """Return every series that may only rise, as one process shows it."""
    text = (await member.expect(200, "GET", "/metrics", token=None)).body.decode()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        if family.type in {"counter", "histogram"}
        for sample in family.samples
    }


def total(shown: Mapping[str, float], name: str, label: str = "") -> float:
    return sum(value for series, value in shown.items() if series.startswith(name) and label in series)


async def test_each_process_shows_what_all_have_sent(site: Installation) -> None:
    await site.sign_up(*PEOPLE)
    members = [site.api, *site.workers]
    before = await counters(site.api)
    sent = (await site.push.control.stats()).accepted
    await site.push.control.behave(Rule(status=403, device=PEOPLE[0]))
    ids = [await site.tell(*PEOPLE[start : start + 6]) for start in range(0, 30, 6)]
    for one in ids:
        await site.api.finished(one)
    sent = (await site.push.control.stats()).accepted - sent
    assert sent == 29

    async def all_agree() -> bool:
        rises = [await counters(member) for member in members]
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


async def test_no_counter_falls_and_nothing_is_counted_twice_when_a_sender_is_killed(site: Installation) -> None:
    own = {name: value for name, value in site.api.environment.items() if name.startswith("TIDINGS_")}
    # a database of its own: what a killed process had in hand is sent again a minute later, in the midst of other tests
    own |= {"TIDINGS_DATABASE": site.postgres.fresh(), "TIDINGS_REDIS": ""}
    ended = asyncio.Event()
    fell: list[str] = []

    async def watch() -> int:
        looks, last = 0, await counters(site.api)
        while not ended.is_set():
            shown = await counters(site.api)
            fell.extend(series for series, value in last.items() if shown.get(series, -1.0) < value)
            looks, last = looks + 1, shown
        return looks

    async with Member("serve", site.api.data_dir, settings=own) as killed:
        other = Installation(killed, [killed], site.push, site.backends)
        await other.sign_up(*PEOPLE)
        await site.push.control.behave(Rule(delay_ms=100))
        before = await counters(site.api)
        watching = asyncio.create_task(watch())
        received = (await site.push.control.stats()).received
        await other.tell(*PEOPLE)
        await site.push.control.wait_for(received=received + 5, timeout=30)
        await killed.kill()
        await killed.start()
        after = await counters(killed)
        [(recorded,)] = await other.rows("SELECT count(*) FROM attempts WHERE outcome = 'delivered'")
        ended.set()
        assert await watching > 2
    assert fell == []
    # what a process had written and not counted yet is lost with it, and never made up for
    assert total(after, ATTEMPTS, "'delivered'") - total(before, ATTEMPTS, "'delivered'") <= recorded
    assert total(after, "tidings_http_requests_total") > total(before, "tidings_http_requests_total")
