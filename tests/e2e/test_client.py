"""The client library beside a running server: the host product's transaction decides what is sent."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tests.support.server import SECRET_KEY, USER_SECRET, TidingsServer

from tidings import Tidings, audience
from tidings.errors import ValidationFailed
from tidings.mockpush import SpawnedMockPush

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(server: TidingsServer, push: SpawnedMockPush) -> AsyncIterator[AsyncEngine]:
    """The host product's engine on the same database, with one of its tables."""
    for name in ("ana", "bob"):
        await server.expect(201, "PUT", f"/api/users/{name}", {})
        device = await push.control.subscription(name)
        await server.expect(201, "POST", "/api/push/subscribe", device, token=server.user_token(name))
    engine = create_async_engine(f"sqlite+aiosqlite:///{server.data_dir}/tidings.db")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (number TEXT PRIMARY KEY)"))
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tidings(server: TidingsServer, host: AsyncEngine) -> AsyncIterator[Tidings]:
    secrets = {"user_secret": USER_SECRET, "secret_key": SECRET_KEY}
    async with Tidings.from_env(data_dir=server.data_dir, **secrets) as library:
        yield library


def variables(title: str) -> dict[str, object]:
    return {"title": title, "body": "There"}


async def titles(push: SpawnedMockPush) -> list[str]:
    found = []
    for message in await push.control.messages():
        assert message.payload is not None
        notification: Any = message.payload["notification"]
        found.append(notification["title"])
    return found


async def test_a_notification_is_sent_with_the_hosts_commit(
    server: TidingsServer, host: AsyncEngine, tidings: Tidings, push: SpawnedMockPush
) -> None:
    async with host.begin() as connection:
        await connection.execute(text("INSERT INTO orders VALUES ('1')"))
        handle = await tidings.notify("MESSAGE", to="ana", variables=variables("committed"), conn=connection)
        # the notification is not visible before the commit
        assert (await server.call("GET", f"/api/notifications/{handle.id}")).status == 404
    assert (await server.wait_until_finished(handle.id)).by_state == {"delivered": 1}
    assert "committed" in await titles(push)
    trace = await handle.trace()
    assert [one.user_id for one in trace.deliveries] == ["ana"]


async def test_nothing_is_sent_when_the_host_rolls_back(
    server: TidingsServer, host: AsyncEngine, tidings: Tidings, push: SpawnedMockPush
) -> None:
    async with host.connect() as connection:
        await connection.execute(text("INSERT INTO orders VALUES ('2')"))
        handle = await tidings.notify("MESSAGE", to="ana", variables=variables("rolled back"), conn=connection)
        await connection.rollback()
    # the arrival of a later notification shows that the relay has run
    after = await tidings.notify("MESSAGE", to="ana", variables=variables("afterwards"))
    await server.wait_until_finished(after.id)
    assert (await server.call("GET", f"/api/notifications/{handle.id}")).status == 404
    shown = await titles(push)
    assert "afterwards" in shown
    assert "rolled back" not in shown


async def test_audiences_compose(server: TidingsServer, tidings: Tidings) -> None:
    everybody_but_ana = audience.everyone() - audience.users("ana")
    handle = await tidings.notify("MESSAGE", to=everybody_but_ana, variables=variables("composed"))
    await server.wait_until_finished(handle.id)
    assert [one.user_id for one in (await handle.trace()).deliveries] == ["bob"]


async def test_a_handle_cancels(server: TidingsServer, tidings: Tidings, push: SpawnedMockPush) -> None:
    handle = await tidings.notify("MESSAGE", to="ana", variables=variables("recalled"), delay=timedelta(seconds=1))
    await handle.cancel()
    later = await tidings.notify("MESSAGE", to="ana", variables=variables("later"), delay=timedelta(seconds=1))
    await server.wait_until_finished(later.id)
    assert (await server.get_progress(handle.id)).status == "cancelled"
    assert "recalled" not in await titles(push)


async def test_an_invalid_argument_is_named_and_nothing_is_stored(
    server: TidingsServer, host: AsyncEngine, tidings: Tidings
) -> None:
    async with host.connect() as connection:
        with pytest.raises(ValidationFailed) as caught:
            await tidings.notify("MESSAGE", to="ana", variables={"title": "half"}, conn=connection)
        assert [fault.field for fault in caught.value.field_errors] == ["variables.body"]
        ((number,),) = await connection.execute(
            text("SELECT count(*) FROM notifications WHERE variables LIKE '%half%'")
        )
        assert number == 0


async def test_a_wrong_kind_of_argument_is_named(tmp_path: Path) -> None:
    async with Tidings.from_env(data_dir=tmp_path) as tidings:
        for wrong in (
            {"delay": 5},
            {"send_at": "2026"},
            {"expires_at": "x"},
            {"action_url": 5},
            {"channels": "webpush"},
        ):
            with pytest.raises(ValidationFailed, match=next(iter(wrong))):
                await tidings.notify("MESSAGE", to="ana", **wrong)
