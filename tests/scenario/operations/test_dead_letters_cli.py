"""`tidings dead-letters` beside running processes: it looks, and what it replays they send (M9).

Each command is a process of its own and takes a second; `tests/unit/cli/test_dead_letters.py` says more.
"""

import pytest

from tidings.testing.installation import Installation
from tidings.testing.mock_push import Rule

pytestmark = pytest.mark.asyncio(loop_scope="session")

FORBIDDEN = "the push service answered 403: no entry"


async def test_what_is_replayed_is_sent_by_those_who_run(site: Installation) -> None:
    people = ["cli-ana", "cli-ben", "cli-cleo"]
    await site.sign_up(*people)
    await site.push.control.behave(*(Rule(status=403, body="no entry", device=user) for user in people))
    one = await site.tell(*people)
    await site.api.finished(one)
    await site.push.control.behave()

    which = ("--notification", one, "--error", FORBIDDEN)
    listed = (await site.command("dead-letters", "list", *which, "--json")).json()
    assert {item["userId"] for item in listed} == set(people)
    assert {(item["error"], item["status"], item["attempts"]) for item in listed} == {(FORBIDDEN, 403, 1)}

    asked = await site.command("dead-letters", "replay", *which)
    assert (asked.code, asked.out) == (2, "")
    assert "--yes: replay 3 dead letters?" in asked.err
    assert (await site.api.progress(one)).by_state == {"refused": 3}

    done = (await site.command("dead-letters", "replay", *which, "--yes", "--json")).json()
    assert (done["replayed"], done["expired"], done["cancelled"]) == (3, 0, 0)
    assert (await site.api.finished(one)).by_state == {"delivered": 3}
