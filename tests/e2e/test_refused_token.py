"""A push service that refuses this server's token: no attempt is spent, no device is marked, an operator is alerted."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import msgspec
from tests.support.cluster import ServerProcess
from tests.support.installation import Installation
from tests.support.server import eventually

from tidings.mockpush import ResponseRule, spawn

PEOPLE = [f"u{number}" for number in range(3)]
BODY = {"code": 401, "errno": 109, "error": "Unauthorized", "message": "Request did not validate: token expired"}


async def test_devices_and_attempts_survive_an_incident_of_the_push_service(tmp_path: Path) -> None:
    yesterday = format_datetime(datetime.now(UTC) - timedelta(hours=25), usegmt=True)
    async with spawn() as push:
        settings = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://")}
        async with ServerProcess("serve", tmp_path / "data", settings=settings) as server:
            site = Installation(server, [server], push)
            await site.register_users(*PEOPLE)
            await push.control.set_rules(ResponseRule(status=401, body=BODY, headers={"Date": yesterday}))
            await site.send_message(*PEOPLE)

            async def find_alerts() -> dict[str, str]:
                health = await server.expect(200, "GET", "/health/worker", token=None)
                alerts = msgspec.json.decode(health.body)["alerts"]
                return {alert["name"]: alert["detail"] for alert in alerts}

            async def is_reported() -> bool:
                return {"push_token_refused", "clock_off"} <= (await find_alerts()).keys()

            await eventually(is_reported, within=20)
            assert re.search(r"25 h [01] min ahead", (await find_alerts())["push_token_refused"])

            async def is_diagnosed() -> bool:
                diagnosis = await site.run_command("doctor", "--json")
                checks = msgspec.json.decode(diagnosis.stdout)["checks"]
                problems = {check["check"] for check in checks if check["level"] == "problem"}
                return diagnosis.exit_code == 1 and {"push_token_refused", "clock_off"} <= problems

            # the server writes its alerts with its next heartbeat
            await eventually(is_diagnosed, within=20)
            states = await site.query("SELECT DISTINCT state FROM contact_points WHERE channel = 'webpush'")
            assert [tuple(row) for row in states] == [("active",)]
            assert {row[0] for row in await site.query("SELECT attempts FROM deliveries")} == {0}
            await push.control.set_rules()

            async def is_over() -> bool:
                delivered = await site.query("SELECT count(*) FROM deliveries WHERE state = 'delivered'")
                return delivered[0][0] == len(PEOPLE) and "push_token_refused" not in await find_alerts()

            await eventually(is_over, within=30)
