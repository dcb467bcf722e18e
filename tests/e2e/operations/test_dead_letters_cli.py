"""`tidings dead-letters` beside running processes: it lists and replays, and the workers send.

Each command is a separate process and takes a second; `tests/unit/cli/test_dead_letters.py` covers more cases.
"""

import pytest
from tests.support.installation import Installation

from tidings.mockpush import ResponseRule

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # differences of PostgreSQL are covered by `DeadLettersContract`
    pytest.mark.parametrize("site", ["serve", pytest.param("fleet", marks=pytest.mark.extended)], indirect=True),
]

FORBIDDEN = "the push service answered 403: no entry"


async def test_replayed_dead_letters_are_sent_by_the_running_processes(site: Installation) -> None:
    users = ["cli-ana", "cli-ben", "cli-cleo"]
    await site.register_users(*users)
    await site.push_service.control.set_rules(
        *(ResponseRule(status=403, body="no entry", device=user) for user in users)
    )
    one = await site.send_message(*users)
    await site.api.wait_until_finished(one)
    await site.push_service.control.set_rules()

    which = ("--notification", one, "--error", FORBIDDEN)
    listed = (await site.run_command("dead-letters", "list", *which, "--json")).parse_json()
    assert {item["userId"] for item in listed} == set(users)
    assert {(item["error"], item["status"], item["attempts"]) for item in listed} == {(FORBIDDEN, 403, 1)}

    command = await site.run_command("dead-letters", "replay", *which)
    assert (command.exit_code, command.stdout) == (2, "")
    assert "--yes: is required to replay 3 dead letters" in command.stderr
    assert (await site.api.get_progress(one)).by_state == {"refused": 3}

    done = (await site.run_command("dead-letters", "replay", *which, "--yes", "--json")).parse_json()
    assert (done["replayed"], done["expired"], done["cancelled"]) == (3, 0, 0)
    assert (await site.api.wait_until_finished(one)).by_state == {"delivered": 3}
