"""What one caller wants accepted, as the group it travels in sees it. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidings.api import lines
from tidings.edge.notify_body import NotifyBody, as_called, to_request
from tidings.errors import Invalid
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.ports.clock import Clock
from tidings.ports.store import KeyedRequest


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call: some notifications, answered together."""

    #: None: it came without a key
    keyed: KeyedRequest | None
    #: how many notifications
    size: int
    #: called when it is new, not when it is repeated: what was right the first time (`expiresAt`) may not be any more
    requests: Callable[[], Sequence[NotifyRequest | Invalid]]
    #: from what came of each request to status and JSON body; an Invalid refuses it all, and its key stays free
    answer: Callable[[Sequence[Notification | Invalid]], tuple[int, object] | Invalid]


@dataclass(frozen=True, slots=True)
class Line:
    """One line as read: a request, or why there is none."""

    number: int
    wanted: NotifyBody | Invalid


def single(body: NotifyBody, keyed: KeyedRequest | None, clock: Clock) -> Wanted:
    """Return the wish for one notification: accepted, or refused as a whole."""

    def answer(made: Sequence[Notification | Invalid]) -> tuple[int, object] | Invalid:
        (one,) = made
        return as_called(body, one) if isinstance(one, Invalid) else (202, _accepted(one))

    return Wanted(keyed, 1, lambda: [_request(body, clock)], answer)


def several(read: Sequence[Line], keyed: KeyedRequest | None, clock: Clock) -> Wanted:
    """Return the wish for a notification per line: lines are refused one by one, the call as a whole is not."""

    def requests() -> Sequence[NotifyRequest | Invalid]:
        return [one.wanted if isinstance(one.wanted, Invalid) else _request(one.wanted, clock) for one in read]

    def answer(made: Sequence[Notification | Invalid]) -> tuple[int, object]:
        return 200, [_line(line, one) for line, one in zip(read, made, strict=True)]

    return Wanted(keyed, len(read), requests, answer)


def _request(body: NotifyBody, clock: Clock) -> NotifyRequest | Invalid:
    try:
        return to_request(body, clock.now())
    except Invalid as error:
        return error


def _line(line: Line, made: Notification | Invalid) -> dict[str, object]:
    if not isinstance(made, Invalid):
        return {"line": line.number, **_accepted(made)}
    return lines.failed(line.number, as_called(line.wanted, made) if isinstance(line.wanted, NotifyBody) else made)


def _accepted(notification: Notification) -> dict[str, object]:
    return {"id": notification.id, "status": notification.state.value}
