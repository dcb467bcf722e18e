"""Chaos test fixtures: servers with users, and an audit that compares the push service's log with the database."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.limited_filesystem import LimitedFilesystem
from tests.support.server import ADMIN_KEY, SECRET_KEY, USER_SECRET, TidingsServer

from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.demo import devices
from tidings.mockpush import MockPushOptions, SpawnedMockPush, spawn
from tidings.model.user import User

ServerFactory = Callable[..., Awaitable[TidingsServer]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def push() -> AsyncIterator[SpawnedMockPush]:
    # decrypting every message would slow down the server, so only a share is verified
    async with spawn(MockPushOptions(verify_share=0.02)) as service:
        yield service


@pytest.fixture(scope="module")
def create_server(push: SpawnedMockPush, tmp_path_factory: pytest.TempPathFactory) -> ServerFactory:
    """Return a factory for servers whose users `u0000…` have one device each, of the same name.

    It clears all earlier receipts.
    """
    created: dict[int, Path] = {}

    async def create(user_count: int, *options: str, **settings: str) -> TidingsServer:
        if user_count not in created:
            created[user_count] = tmp_path_factory.mktemp("crowd") / "data"
            await _populate(created[user_count], push.origin, user_count)
        await push.control.reset()
        data_dir = tmp_path_factory.mktemp("server") / "data"
        shutil.copytree(created[user_count], data_dir)
        allowed = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://")}
        return TidingsServer(data_dir, settings={**allowed, **settings}, options=options)

    return create


async def _populate(data_dir: Path, origin: str, user_count: int) -> None:
    settings = Settings(
        data_dir=data_dir,
        bootstrap_key=ADMIN_KEY,
        user_secret=USER_SECRET,
        secret_key=SECRET_KEY,
    )
    now, names = datetime.now(UTC), [f"u{number:04}" for number in range(user_count)]
    async with AppContainer.open(settings) as container, container.store.transaction() as tx:
        await container.store.users.upsert(tx, [User(name) for name in names], now)
        simulated = [devices.DemoDevice(name, name, "Phone") for name in names]
        await devices.subscribe_devices(container, tx, simulated, origin=origin, now=now)


@dataclass(frozen=True)
class SqliteDeliveryAudit:
    """The receipts of the push service, and the rows of the database."""

    #: device → messages accepted
    receipts: Mapping[str, int]
    #: user → state of the delivery
    states: Mapping[str, str]
    #: the notification's own counts: recipients, deliveries, skipped
    counts: tuple[int, int, int]
    integrity_check: str
    dangling_foreign_keys: int

    @property
    def duplicates(self) -> int:
        return sum(self.receipts.values()) - len(self.receipts)

    def check(self, user_count: int) -> None:
        """Assert that each user received the message, no other device did, and all counts agree."""
        assert self.integrity_check == "ok"
        assert self.dangling_foreign_keys == 0, "dangling foreign keys"
        user_ids = {f"u{number:04}" for number in range(user_count)}
        assert set(self.receipts) == user_ids
        assert Counter(self.states.values()) == {"delivered": user_count}
        assert set(self.states) == user_ids
        assert self.counts == (user_count, user_count, 0)


AuditReader = Callable[[TidingsServer], Awaitable[SqliteDeliveryAudit]]


@pytest.fixture(scope="module")
def audit(push: SpawnedMockPush) -> AuditReader:
    """Return a function that audits a server with one notification."""

    async def read(server: TidingsServer) -> SqliteDeliveryAudit:
        receipts: Counter[str] = Counter()
        for device, _, count in await push.control.receipts():
            receipts[device] += count
        with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
            states = dict(database.execute("SELECT user_id, state FROM deliveries"))
            (counts,) = database.execute("SELECT recipients, deliveries, skipped FROM notifications").fetchall()
            ((integrity,),) = database.execute("PRAGMA integrity_check").fetchall()
            dangling = database.execute("PRAGMA foreign_key_check").fetchall()
        return SqliteDeliveryAudit(receipts, states, counts, integrity, len(dangling))

    return read


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], LimitedFilesystem]]:
    """Return a factory for file systems of a size in MB. Skips the test where mounting is not permitted."""
    created: list[LimitedFilesystem] = []
    # not in `tmp_path`: a unix socket path has about a hundred characters at most
    folder = Path(tempfile.mkdtemp(prefix="tidings-disk-"))

    def mount(size_mb: int) -> LimitedFilesystem:
        try:
            created.append(LimitedFilesystem(folder / "disk", size_mb))
        except OSError as error:
            pytest.skip(str(error))
        return created[-1]

    yield mount
    for disk in created:
        disk.unmount()
    shutil.rmtree(folder)


@pytest.fixture
def record_measurement(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Return a function that prints a measurement; `pytest -rP` shows them."""

    def record(name: str, value: object) -> None:
        print(f"{request.node.name}: {name}: {value}")

    return record
