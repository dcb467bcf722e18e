"""A crowd to send to, servers to kill, and the oracle: what the push service logged against what the database says."""

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tidings.demo import devices
from tidings.model.user import User
from tidings.runtime import Runtime
from tidings.settings import Settings
from tidings.testing.disk import Disk
from tidings.testing.mock_push import MockPushOptions, SpawnedMockPush, spawn
from tidings.testing.server import ADMIN_KEY, SECRET_KEY, USER_SECRET, TidingsServer

Crowd = Callable[..., Awaitable[TidingsServer]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out, unless `make chaos` asks for them."""
    if os.environ.get("TIDINGS_CHAOS") == "long":
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def push() -> AsyncIterator[SpawnedMockPush]:
    # decrypting every message would take the time from the server; some are enough here
    async with spawn(MockPushOptions(verify_share=0.02)) as service:
        yield service


@pytest.fixture(scope="module")
def crowd(push: SpawnedMockPush, tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    """Make a server whose users `u0000…` have one device each, named as its user; and forget all earlier receipts."""
    made: dict[int, Path] = {}

    async def server_with(people: int, *options: str, **settings: str) -> TidingsServer:
        if people not in made:
            made[people] = tmp_path_factory.mktemp("crowd") / "data"
            await _populate(made[people], push.origin, people)
        await push.control.reset()
        data_dir = tmp_path_factory.mktemp("server") / "data"
        shutil.copytree(made[people], data_dir)
        allowed = {"TIDINGS_PUSH_EXTRA_HOSTS": push.origin.removeprefix("http://")}
        return TidingsServer(data_dir, settings={**allowed, **settings}, options=options)

    return server_with


async def _populate(data_dir: Path, origin: str, people: int) -> None:
    settings = Settings(
        data_dir=data_dir,
        bootstrap_key=ADMIN_KEY,
        user_secret=USER_SECRET,
        secret_key=SECRET_KEY,
        push_extra_hosts=(origin.removeprefix("http://"),),
    )
    now, names = datetime.now(UTC), [f"u{number:04}" for number in range(people)]
    async with Runtime.open(settings) as runtime, runtime.store.begin() as tx:
        await runtime.store.users.upsert(tx, [User(name) for name in names], now)
        simulated = [devices.Simulated(name, name, "Phone") for name in names]
        await devices.add(runtime, tx, simulated, origin=origin, now=now)


@dataclass(frozen=True)
class Books:
    """The receipts of the push service beside the rows of the database."""

    #: device → messages taken
    receipts: Mapping[str, int]
    #: user → state of the delivery
    states: Mapping[str, str]
    #: the notification's own counts: recipients, deliveries, skipped
    counts: tuple[int, int, int]
    integrity: str
    journal: int

    @property
    def duplicates(self) -> int:
        return sum(self.receipts.values()) - len(self.receipts)

    def check(self, people: int) -> None:
        """Assert that nobody was lost, nothing was made up, and every count agrees."""
        assert self.integrity == "ok"
        assert self.journal == 0, "foreign keys that point nowhere"
        everybody = {f"u{number:04}" for number in range(people)}
        assert set(self.receipts) == everybody
        assert Counter(self.states.values()) == {"delivered": people}
        assert set(self.states) == everybody
        assert self.counts == (people, people, 0)


Audit = Callable[[TidingsServer], Awaitable[Books]]


@pytest.fixture(scope="module")
def audit(push: SpawnedMockPush) -> Audit:
    """Read the books of a server with one notification."""

    async def read(server: TidingsServer) -> Books:
        receipts: Counter[str] = Counter()
        for device, _, count in await push.control.receipts():
            receipts[device] += count
        with closing(sqlite3.connect(server.data_dir / "tidings.db")) as database:
            states = dict(database.execute("SELECT user_id, state FROM deliveries"))
            (counts,) = database.execute("SELECT recipients, deliveries, skipped FROM notifications").fetchall()
            ((integrity,),) = database.execute("PRAGMA integrity_check").fetchall()
            dangling = database.execute("PRAGMA foreign_key_check").fetchall()
        return Books(receipts, states, counts, integrity, len(dangling))

    return read


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Make a file system of so many MB to fill, where this user may mount one."""
    made: list[Disk] = []

    def mounted(size_mb: int) -> Disk:
        try:
            made.append(Disk(tmp_path / "disk", size_mb))
        except OSError as error:
            pytest.skip(str(error))
        return made[-1]

    yield mounted
    for disk in made:
        disk.unmount()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Note a figure of the run; `pytest -rP` prints them."""

    def note(name: str, value: object) -> None:
        print(f"{request.node.name}: {name}: {value}")

    return note
