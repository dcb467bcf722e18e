"""Decide whether a request can be accepted, and as what. Pure: the catalog and the time come in."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from tidings.errors import Fault, Invalid
from tidings.flow.intake.catalog import Catalog
from tidings.model.audience import AllOf, AnyOf, Audience, Except, Members
from tidings.model.links import fault_of_link
from tidings.model.notification import Notification
from tidings.model.request import MAX_VARIABLES_BYTES, NotifyRequest
from tidings.model.template import Template
from tidings.ports.wording import Wording

#: push services keep a message for at most 28 days [FCM]; later than that nothing could be delivered anyway
LONGEST_LIFE = timedelta(days=28)
FARTHEST = timedelta(days=366)


def accepted(request: NotifyRequest, catalog: Catalog, wording: Wording, *, new_id: str, now: datetime) -> Notification:
    """Return the notification of a request.

    Raises Invalid naming every wrong field in the caller's spelling, and the fix.
    """
    template = catalog.template(request.template_code)
    catalog.check_audience(request.audience)
    send_at = max(_aware(request.send_at, "options.sendAt") or now, now)
    last = min(send_at, now + FARTHEST) + LONGEST_LIFE
    expires_at = min(_aware(request.expires_at, "options.expiresAt") or last, last)
    faults = [
        *_missing(template, wording, request.variables),
        *_wrong_times(now, send_at, expires_at),
        *_wrong_channels(catalog, request.channels),
        *_wrong_action(request.action_url, request.action_text),
        *_too_large(request.variables),
    ]
    if faults:
        raise Invalid.of(faults)
    notification = Notification(
        id=new_id,
        template_code=template.code,
        template_version=template.version,
        category=template.category,
        audience=request.audience,
        # as they will be read back: the trial below sees what every later rendering sees
        variables=msgspec.json.decode(msgspec.json.encode(request.variables), type=dict[str, object]),
        priority=request.priority or template.priority,
        channels=tuple(dict.fromkeys(request.channels)),
        action_url=request.action_url,
        action_text=request.action_text,
        send_at=send_at,
        expires_at=expires_at,
        created_at=now,
        source=request.source,
    )
    # a trial with the fallback words: whatever a template trips over is told to the caller, not to 5 000 recipients
    wording.render(template, notification, "en", "UTC")
    return notification


def named_only(audience: Audience) -> list[str] | None:
    """Return the users of an audience that names each of them, once each; None for one that must be looked up."""
    match audience:
        case Members("users", {"userIds": list(ids)}):
            return list(dict.fromkeys(ids))
        case AnyOf(parts):
            named = [named_only(part) for part in parts]
            if any(one is None for one in named):
                return None
            return list(dict.fromkeys(user_id for one in named if one is not None for user_id in one))
        case _:
            return None


def unknown_users(user_ids: Sequence[str]) -> Invalid:
    """Return the error for an audience that names users who do not exist."""
    shown = ", ".join(repr(user_id) for user_id in user_ids[:5]) + (" …" if len(user_ids) > 5 else "")
    return Invalid.field("userIds", f"no such user: {shown}; PUT /api/users/ID first", code="unknown_user")


def explicit_ids(audience: Audience) -> list[str]:
    """Return the user ids that the audience names, wherever they stand in the tree."""
    match audience:
        case Members("users", arguments):
            ids = arguments.get("userIds")
            return list(ids) if isinstance(ids, list) else []
        case Members():
            return []
        case AnyOf(parts) | AllOf(parts):
            return [user_id for part in parts for user_id in explicit_ids(part)]
        case Except():
            # leaving out somebody who does not exist is no mistake
            return []


def _aware(value: datetime | None, field: str) -> datetime | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise Invalid.field(field, "needs an offset, e.g. 2026-11-22T18:00:00+01:00")
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first and the last day of the calendar, moved over its edge by the offset
        raise Invalid.field(field, "is no time that can be reckoned with") from None


def _missing(template: Template, wording: Wording, variables: Mapping[str, object]) -> list[Fault]:
    given = set(variables) | set(template.defaults)
    return [
        Fault(f"variables.{name}", f"is missing; template {template.code} uses it")
        for name in sorted(wording.required(template) - given)
    ]


def _wrong_times(now: datetime, send_at: datetime, expires_at: datetime) -> list[Fault]:
    faults = []
    if send_at > now + FARTHEST:
        faults.append(Fault("options.sendAt", f"is more than {FARTHEST.days} days ahead"))
    if expires_at <= min(send_at, now + FARTHEST):
        faults.append(Fault("options.expiresAt", "must be after the time of sending"))
    return faults


def _wrong_channels(catalog: Catalog, channels: tuple[str, ...]) -> list[Fault]:
    known = ", ".join(catalog.known_channels)
    return [
        Fault(f"options.channels[{index}]", f"unknown channel {name!r}; known are {known}")
        for index, name in enumerate(channels)
        if name not in catalog.known_channels
    ]


def _wrong_action(url: str | None, text: str | None) -> list[Fault]:
    faults = []
    if url is not None and (wrong := fault_of_link(url)) is not None:
        faults.append(Fault("options.actionUrl", wrong))
    if text is not None and not (text.strip() and len(text) <= 200):
        faults.append(Fault("options.actionText", "must have 1 to 200 characters"))
    return faults


def _too_large(variables: Mapping[str, object]) -> list[Fault]:
    try:
        size = len(msgspec.json.encode(variables))
    except (TypeError, ValueError) as error:
        return [Fault("variables", f"must hold JSON values only: {error}")]
    if size > MAX_VARIABLES_BYTES:
        return [Fault("variables", f"take {size} bytes as JSON; at most {MAX_VARIABLES_BYTES} are allowed")]
    return []
