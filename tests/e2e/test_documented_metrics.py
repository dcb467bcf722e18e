"""Every documented metric is exposed by a running server once it has a value."""

import re
from contextlib import suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation
from tests.support.server import eventually

from tidings.channels.throttling.circuit_breaker import DEFAULT_POLICY
from tidings.mockpush import ResponseRule, spawn

DOCS = Path(__file__).parents[2] / "docs"
#: metrics in running text; `tidings_…` in diagrams and settings files is not a metric
METRIC_NAME = re.compile(r"`(tidings_[a-z_]+)(?:\{[a-z,]+\})?`")
BREAKERS = "tidings_breakers_open"


def named_in_docs() -> set[str]:
    return {name for page in DOCS.rglob("*.md") for name in METRIC_NAME.findall(page.read_text())}


async def test_documented_metrics_are_exposed(tmp_path: Path) -> None:
    named = named_in_docs()
    assert BREAKERS in named
    people = [f"u{number}" for number in range(2 * DEFAULT_POLICY.failure_threshold)]
    async with spawn() as push:
        settings = {
            "TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://"),
            "TIDINGS_EMAIL__HOOK_SECRET": "a secret of the hooks of this test",
        }
        async with ServerProcess("serve", tmp_path / "data", settings=settings) as server:
            site = Installation(server, [server], push)
            await site.register_users(*people)
            await server.expect(200, "GET", f"/api/users/{people[0]}/preferences")
            await push.control.set_rules(ResponseRule(status=503))
            await site.send_message(*people)

            async def find_missing() -> set[str]:
                text = (await server.expect(200, "GET", "/metrics", token=None)).body.decode()
                samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
                held_back = {one.labels["target"] for one in samples if one.name == BREAKERS and one.value == 1}
                return (named - {one.name for one in samples}) | ({push.origin} - held_back)

            async def are_all_exposed() -> bool:
                # outcomes are counted once they are recorded
                return not await find_missing()

            with suppress(TimeoutError):
                await eventually(are_all_exposed, within=30)
            assert await find_missing() == set()
