"""The life of one room as a pure state machine: empty → live → grace → ended, and live again as the next epoch.

The inputs are reports of nodes and the time; the outputs are new states and decisions. `redis_scripts` has the same
transitions as Lua scripts, and one contract suite runs over both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

#: seconds after which an end that was not confirmed as recorded is returned again
CONFIRM_WITHIN = 10.0


class Phase(StrEnum):
    """The phase of a room."""

    EMPTY = "empty"
    LIVE = "live"
    GRACE = "grace"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class NodeLease:
    """The viewers of one node, and until when the node answers for them."""

    connections: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class RoomState:
    """One room. Instants are seconds of one clock."""

    #: the present epoch; None = not numbered, or none
    epoch: int | None = None
    #: an epoch whose end is decided and not confirmed as recorded
    unrecorded: int | None = None
    #: whether the room has an epoch that has not ended
    is_open: bool = False
    #: the last sign of life of any viewer
    last_seen_at: float = -math.inf
    grace: float = 0.0
    leases: Mapping[str, NodeLease] = field(default_factory=dict)
    #: when an unrecorded end is returned again
    retry_at: float = 0.0

    def compute_phase(self, now: float) -> Phase:
        """Return the phase of the room."""
        if self.is_open:
            return Phase.LIVE if self.has_live_lease(now) else Phase.GRACE
        return Phase.EMPTY if self.unrecorded is None else Phase.ENDED

    def has_live_lease(self, now: float, *, besides: str = "") -> bool:
        """Return whether any node, except one, has a live lease."""
        return any(lease.expires_at > now and node != besides for node, lease in self.leases.items())

    def count_connections(self, now: float) -> int:
        """Return the connections of the nodes with a live lease."""
        return sum(lease.connections for lease in self.leases.values() if lease.expires_at > now)

    def next_check_at(self) -> float | None:
        """Return when `decide` may have a result; None = never without another report."""
        candidates = []
        if self.unrecorded is not None:
            candidates.append(self.retry_at)
        if self.is_open:
            # also while other leases are live: the users of a dead node must not count
            expiry = min((lease.expires_at for lease in self.leases.values()), default=None)
            candidates.append(self.last_seen_at + self.grace if expiry is None else expiry)
        return min(candidates, default=None)


@dataclass(frozen=True, slots=True)
class EndDecision:
    """The decision that an epoch has ended."""

    epoch: int


@dataclass(frozen=True, slots=True)
class MissingEpoch:
    """The grace period is over, but the epoch is not numbered."""


def apply_report(
    state: RoomState,
    node: str,
    *,
    connections: int,
    lease: float,
    silent_for: float,
    grace: float,
    now: float,
) -> RoomState:
    """Return the room after the report of a node; the arguments are those of `ports.presence.RoomReport`.

    The last sign of life only moves forward, so a late report of a suspended node neither ends nor prolongs a room.
    """
    leases = {name: held for name, held in state.leases.items() if name != node}
    if lease > 0:
        leases[node] = NodeLease(connections, now + lease)
    begins = lease > 0 and not state.is_open
    return replace(
        state,
        epoch=None if begins else state.epoch,
        # a report without a lease opens a room that the presence does not have: it was lost during its grace period
        is_open=state.is_open or lease > 0 or state.unrecorded is None,
        last_seen_at=max(state.last_seen_at, now - silent_for),
        grace=grace,
        leases=leases,
    )


def remove_node(state: RoomState, node: str) -> RoomState:
    """Return the room without the lease of a node."""
    return replace(state, leases={name: held for name, held in state.leases.items() if name != node})


def decide(state: RoomState, now: float) -> tuple[RoomState, EndDecision | MissingEpoch | None]:
    """Return the room without expired leases, and the decision that is due.

    The check for live leases and the transition are one step: a viewer who is back at the deadline prevents the end.
    """
    leases = {name: lease for name, lease in state.leases.items() if lease.expires_at > now}
    state = replace(state, leases=leases)
    if state.unrecorded is not None:
        if now < state.retry_at:
            return state, None
        return replace(state, retry_at=now + CONFIRM_WITHIN), EndDecision(state.unrecorded)
    if leases or not state.is_open or now < state.last_seen_at + state.grace:
        return state, None
    if state.epoch is None:
        return state, MissingEpoch()
    ended = replace(state, epoch=None, unrecorded=state.epoch, is_open=False, retry_at=now + CONFIRM_WITHIN)
    return ended, EndDecision(state.epoch)


def confirm_end(state: RoomState, epoch: int | None, now: float) -> RoomState | None:
    """Return the room after the end of an epoch was recorded, None if nothing is left of it."""
    if epoch is not None and state.unrecorded == epoch:
        state = replace(state, unrecorded=None)
    elif epoch is not None and state.epoch == epoch:
        # it ended elsewhere, during a partition: the viewers of now belong to the next epoch
        state = replace(state, epoch=None, is_open=state.has_live_lease(now))
    elif epoch is None and state.epoch is None:
        state = replace(state, is_open=state.has_live_lease(now))
    is_left = state.is_open or state.unrecorded is not None
    return state if is_left else None


def set_epoch(state: RoomState, epoch: int) -> RoomState:
    """Return the room with its epoch numbered, unless it has a number or its number was that of an earlier epoch."""
    is_needed = state.is_open and state.epoch is None and epoch != state.unrecorded
    return replace(state, epoch=epoch) if is_needed else state
