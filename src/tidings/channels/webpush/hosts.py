"""The push hosts as this process knows them: who is asked, how much at once, and when the rest comes back.

The decisions are in `breaker`, `pace` and `returns`; here they are kept up to date and told to the log.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from math import ceil

import msgspec
import structlog
from msgspec import structs

from tidings.channels.webpush.breaker import FAILURES, Breaker, Standing, admitted, noted
from tidings.channels.webpush.endpoints import EndpointPolicy
from tidings.channels.webpush.pace import SILENCE, Pace, answered
from tidings.channels.webpush.returns import LEAST_RETURNS_PER_SECOND, Pause, in_time, place_in_line
from tidings.channels.webpush.signs import Kind, Sent
from tidings.errors import Invalid
from tidings.model.outcome import Deferred, Outcome, Refused
from tidings.model.priority import Priority
from tidings.ports.clock import Clock

log = structlog.get_logger(__name__)

#: how long to wait for the result of a probe, or for a host that has fallen silent, before asking again
AWAITED = timedelta(seconds=5)
#: how long what finds no room at a slow host waits at least
CROWDED = timedelta(seconds=2)
#: hosts remembered; wildcard hosts make their number open-ended
_MOST_HOSTS = 512
#: devices remembered that are to be left alone for a while
_MOST_DEVICES = 10_000


class Ticket(msgspec.Struct, frozen=True, eq=False):
    """One send that a host was asked for."""

    device: int
    since: datetime
    probe: bool


class Host:
    """One push host; a `flow.deliver.destination.Destination`. Belongs to one event loop."""

    def __init__(self, name: str, clock: Clock, jitter: Callable[[], float]) -> None:
        """`name`: its origin; `jitter` returns a random number, 0 ≤ n < 1."""
        self.name = name
        #: times it was held back
        self.pauses = 0
        self._clock = clock
        self._jitter = jitter
        self._breaker = Breaker()
        self._pace = Pace()
        self._lines: dict[Priority, datetime] = {}
        #: in the order they began
        self._in_flight: dict[Ticket, None] = {}
        self._answered_at: datetime | None = None
        self._room = 1
        #: devices to be left alone: since when, until when
        self._told: dict[int, tuple[datetime, datetime]] = {}

    def share(self, places: int) -> int:
        """Return how many of the places may be taken by sends to this host now."""
        self._room = max(1, ceil(places * self._pace.share))
        return self._room

    def is_closed(self, *, full: bool) -> bool:
        """Return whether nothing more may be sent there now. full: its share of the places is taken."""
        return self._pause(full=full) is not None

    def not_now(self, priority: Priority, expires_at: datetime) -> Deferred:
        """Return when a delivery that is held back comes again."""
        now = self._clock.now()
        pause = self._pause(full=True)
        if pause is None:
            pause = Pause(f"{self.name} has only just become free", now)
        elif not self._lines and self._breaker.standing is Standing.CLOSED:
            # no breaker tells of it
            seconds = _seconds(pause.until, now)
            log.warning("push_host_held_back", host=self.name, seconds=seconds, told=pause.told, why=pause.why)
        place = place_in_line(self._lines.get(priority), pause, self._jitter())
        self._lines[priority] = max(place, self._lines.get(priority, place))
        until = in_time(place, pause, expires_at, now, self._jitter())
        return Deferred(until, pause.why, spends_attempt=False)

    def begin(self, endpoint: str, priority: Priority, expires_at: datetime) -> Ticket | Deferred:
        """Ask to send to an endpoint. Whoever gets a ticket must hand it to `end`."""
        now, device = self._clock.now(), hash(endpoint)
        told = self._told.get(device)
        if told is not None and told[0] <= now < told[1]:
            return Deferred(told[1], f"{self.name} asked to leave this device alone", spends_attempt=False)
        before = self._breaker
        self._breaker, may = admitted(before, now)
        if not may:
            return self.not_now(priority, expires_at)
        ticket = Ticket(device, now, probe=self._breaker is not before)
        self._in_flight[ticket] = None
        return ticket

    def broken_off(self, ticket: Ticket) -> None:
        """Take note that nobody knows how a send ended."""
        self._in_flight.pop(ticket, None)
        self._breaker = noted(self._breaker, None, self._clock.now(), device=ticket.device, probe=ticket.probe)

    def end(self, ticket: Ticket, sent: Sent, priority: Priority, expires_at: datetime) -> Outcome:
        """Take note of how a send ended, and return what that means for the delivery."""
        if sent.sign is None:
            self.broken_off(ticket)
            return sent.outcome
        now, sign = self._clock.now(), sent.sign
        self._in_flight.pop(ticket, None)
        self._pace = answered(self._pace, (now - ticket.since).total_seconds())
        if sign.kind is not Kind.SILENT:
            self._answered_at = now
        if sign.kind is Kind.FULL and isinstance(sent.outcome, Deferred):
            self._leave_alone(ticket.device, now, sent.outcome.until)
        before = self._breaker
        self._breaker = noted(before, sign, now, device=ticket.device, probe=ticket.probe, jitter=self._jitter())
        self._tell(before, sent.outcome.why, now)
        if sign.kind is Kind.WELL and self._lines and self._pause(full=True) is None:
            # Who is held back the next time must not stand behind those of this time, some of whom come back later
            # than the host turned out to need.
            self._free()
        if sign.kind not in (Kind.SILENT, Kind.AILING) or self._breaker.standing is Standing.CLOSED:
            return sent.outcome
        if not isinstance(sent.outcome, Deferred | Refused):
            return sent.outcome
        # the host is to blame and not this message: it is tried until it expires
        again = self.not_now(priority, expires_at)
        return structs.replace(again, why=f"{sent.outcome.why}; {again.why}", status=sent.outcome.status)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is known of it that matters."""
        return not self._in_flight and self._breaker.standing is Standing.CLOSED

    def _pause(self, *, full: bool) -> Pause | None:
        now, breaker = self._clock.now(), self._breaker
        if breaker.standing is Standing.OPEN and breaker.until is not None and breaker.lasts(now):
            why = "asked to be left alone" if breaker.told else "does not work"
            return Pause(f"{self.name} {why}", breaker.until, breaker.told)
        if breaker.standing is Standing.PROBING and breaker.lasts(now):
            return Pause(f"{self.name} is being tried again", now + AWAITED)
        if self._is_silent(now):
            return Pause(f"{self.name} does not answer", now + AWAITED)
        if full and self._pace.is_slow:
            return Pause(
                f"{self.name} is slow",
                now + CROWDED,
                rate=max(LEAST_RETURNS_PER_SECOND, self._room / self._pace.seconds),
            )
        return None

    def _is_silent(self, now: datetime) -> bool:
        # a few that hang may be about their devices, and do no harm
        fifth = next(islice(self._in_flight, FAILURES - 1, None), None)
        if fifth is None:
            return False
        since = fifth.since if self._answered_at is None else max(fifth.since, self._answered_at)
        return (now - since).total_seconds() > SILENCE

    def _leave_alone(self, device: int, now: datetime, until: datetime) -> None:
        self._told.pop(device, None)
        self._told[device] = (now, until)
        if len(self._told) > _MOST_DEVICES:
            del self._told[next(iter(self._told))]

    def _tell(self, before: Breaker, why: str, now: datetime) -> None:
        after = self._breaker
        if after.standing is Standing.OPEN and before.standing is not Standing.OPEN:
            self.pauses += 1
            seconds = 0.0 if after.until is None else _seconds(after.until, now)
            log.warning("push_host_held_back", host=self.name, seconds=seconds, told=after.told, why=why)
        elif after.standing is Standing.CLOSED and before.standing is not Standing.CLOSED:
            self._free()

    def _free(self) -> None:
        # what waits comes back in its line; what is new need not stand in it
        self._lines.clear()
        log.info("push_host_works_again", host=self.name)


def _seconds(until: datetime, now: datetime) -> float:
    return round((until - now).total_seconds(), 1)


class Hosts:
    """All push hosts, by origin."""

    def __init__(self, policy: EndpointPolicy, clock: Clock, jitter: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._known: dict[str, Host] = {}

    def of(self, endpoint: str) -> Host | None:
        """Return the host of an endpoint, None if that is not allowed."""
        try:
            name = self._policy.check(endpoint).text
        except Invalid:
            return None
        host = self._known.get(name)
        if host is None:
            if len(self._known) >= _MOST_HOSTS:
                self._known = {name: host for name, host in self._known.items() if not host.is_idle}
            host = self._known[name] = Host(name, self._clock, self._jitter)
        return host

    def held_back(self) -> Mapping[str, bool]:
        """Return, for each host that was ever held back, whether it is now."""
        return {name: host.is_closed(full=False) for name, host in self._known.items() if host.pauses}

    def pauses(self) -> Mapping[str, int]:
        """Return how often each host was held back."""
        return {name: host.pauses for name, host in self._known.items() if host.pauses}
