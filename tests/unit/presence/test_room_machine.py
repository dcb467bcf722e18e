"""The promise of live rooms, against generated histories of joins, departures, dead and suspended nodes, and time.

An epoch ends once, 30 to 45 s after the last sign of life of its last viewer, and never if a viewer was back before.
"""

from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidings.model.stream import CountBy, StreamEvent
from tidings.packs.streams.viewers import CloseCode, LocalRoom, Timing, Viewer
from tidings.presence.memory_presence import MemoryPresence

T = TypeVar("T")
ROOM = "event-1"
GRACE = 30.0
TIMING = Timing(10.0)
#: seconds after the last sign of life within which an end is decided
LATEST = 45.0
FOR_EVER = datetime(2099, 1, 1, tzinfo=UTC)


class NoConnection:
    """A connection that only exists in the model."""

    def send(self, message: bytes) -> None: ...

    def close(self, code: CloseCode) -> None: ...


class ModelNode:
    """A process with viewers: what it knows, whether it runs, and when it reports."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        #: None = none of its viewers was ever there
        self.room: LocalRoom | None = None
        self.viewers: list[Viewer] = []
        self.is_suspended = False
        self.reported_at = now

    def add(self, user: str, now: float) -> None:
        if self.room is None:
            self.room = LocalRoom(StreamEvent(ROOM, "Jazz", "host", is_public=True), GRACE, CountBy.USER, now)
        viewer = Viewer(user, self.room, NoConnection(), "127.0.0.1", FOR_EVER, now)
        self.room.add(viewer)
        self.viewers.append(viewer)

    def remove(self, now: float, *, is_clean: bool) -> None:
        viewer = self.viewers.pop()
        viewer.room.remove(viewer, is_clean=is_clean, now=now, lease=TIMING.viewer_lease)


class RoomMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.presence = MemoryPresence(lambda: self.now)
        self.nodes: dict[str, ModelNode] = {}
        self.node_count = 0
        #: the last sign of life of any viewer of a node that ran
        self.last_sign = self.now
        #: until when decisions are held back, or a suspension makes the nodes' view incomplete
        self.uncertain_until = self.now
        self.epoch = 0
        self.is_open = False
        self.ended: list[int] = []
        self.start_node()

    @rule()
    @precondition(lambda self: len(self.nodes) < 3)
    def start_node(self) -> None:
        self.node_count += 1
        name = f"node-{self.node_count}"
        self.nodes[name] = ModelNode(name, self.now)

    @rule(data=st.data(), user=st.sampled_from(["ada", "bo", "cy"]))
    def join(self, data: st.DataObject, user: str) -> None:
        node = self.choose(data)
        if node is not None:
            node.add(user, self.now)
            self.last_sign = self.now
            self.report(node)

    @rule(data=st.data(), is_clean=st.booleans())
    def leave(self, data: st.DataObject, is_clean: bool) -> None:
        node = self.choose(data)
        if node is not None and node.viewers:
            node.remove(self.now, is_clean=is_clean)
            if is_clean:
                self.last_sign = self.now
            self.report(node)

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        node = self.choose(data)
        if node is not None:
            del self.nodes[node.name]

    @rule(data=st.data())
    def suspend(self, data: st.DataObject) -> None:
        node = self.choose(data)
        if node is not None:
            node.is_suspended = True

    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        """The node reports first and hears of its viewers later, which is the worst order."""
        if suspended := [node for node in self.nodes.values() if node.is_suspended]:
            node = data.draw(st.sampled_from(suspended))
            node.is_suspended = False
            self.report(node)

    @rule(seconds=st.sampled_from([1, 4, 14, 29, 31, 60]))
    def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            running = [node for node in self.nodes.values() if not node.is_suspended]
            for node in running:
                self.beat(node)
            if running:
                self.sweep()
            else:
                # nobody sweeps: the next one is held back for a node's lease
                self.uncertain_until = self.now + TIMING.node_lease

    @invariant()
    def each_epoch_ends_once(self) -> None:
        assert self.ended == list(range(1, len(self.ended) + 1))

    # --- steps

    def choose(self, data: st.DataObject) -> ModelNode | None:
        running = [node for node in self.nodes.values() if not node.is_suspended]
        return data.draw(st.sampled_from(running)) if running else None

    def beat(self, node: ModelNode) -> None:
        for viewer in node.viewers:
            if self.now - viewer.last_seen_at >= TIMING.heartbeat:
                viewer.last_seen_at = viewer.room.last_seen_at = self.last_sign = self.now
        if self.now - node.reported_at >= TIMING.report_interval:
            self.report(node)

    def report(self, node: ModelNode) -> None:
        node.reported_at = self.now
        if node.room is None or node.room.is_expired(TIMING, self.now):
            node.room = None
            return
        view = run(self.presence.report(node.name, [node.room.build_report(TIMING, self.now)]))[0]
        if view.unrecorded is not None:
            run(self.presence.confirm_end(ROOM, view.unrecorded))
        if view.is_live and view.epoch is None:
            self.epoch += 1
            self.is_open = True
            run(self.presence.set_epoch(ROOM, self.epoch))

    def sweep(self) -> None:
        sweep = run(self.presence.sweep(10, node_lease=TIMING.node_lease))
        for _ in sweep.unnumbered:
            run(self.presence.confirm_end(ROOM, None))
        for end in sweep.ends:
            assert end.epoch == self.epoch
            assert self.now >= self.last_sign + GRACE, "a viewer was there within the grace period"
            self.ended.append(end.epoch)
            self.is_open = False
            run(self.presence.confirm_end(ROOM, end.epoch))
        if self.is_open and self.now > max(self.last_sign + LATEST, self.uncertain_until + 1):
            raise AssertionError(f"the room still has not ended {self.now - self.last_sign} s after the last viewer")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine of the presence in memory, which never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the presence in memory waited")


TestE01RoomMachine = RoomMachine.TestCase
TestE01RoomMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_e03_a_viewer_at_the_last_moment_keeps_the_epoch() -> None:
    machine = RoomMachine()
    node = machine.nodes["node-1"]
    for _ in range(20):
        machine.now += 1
        machine.sweep()
    node.add("ada", machine.now)
    machine.report(node)
    node.remove(machine.now, is_clean=True)
    machine.last_sign = machine.now
    machine.report(node)
    while machine.now < machine.last_sign + GRACE - 1:
        machine.now += 1
        machine.sweep()
    machine.now += 1
    node.add("bo", machine.now)
    machine.report(node)
    machine.sweep()
    assert (machine.ended, machine.epoch) == ([], 1)
