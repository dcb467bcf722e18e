"""Validates a request and builds its notification. Pure: the catalog and the time are arguments."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec import structs

from tidings.errors import FieldError, ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.flow.step_checks import check_steps
from tidings.model.audience import merge_user_list
from tidings.model.links import validate_link
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions, PlanOptions, ThrottleOptions
from tidings.model.request import MAX_SCHEDULE_AHEAD, MAX_VARIABLES_BYTES, NotifyRequest
from tidings.model.subject import MAX_KEY_LENGTH, MAX_STATE_BYTES, MAX_VERSION, SubjectRequest
from tidings.model.template import Template
from tidings.ports.renderer import Renderer

#: push services store a message for at most 28 days (Firebase Cloud Messaging, "time to live"), so a longer life has
#: no effect
MAX_TTL = timedelta(days=28)
OptionsT = TypeVar("OptionsT", DigestOptions, ThrottleOptions)


def build_notification(
    request: NotifyRequest, catalog: Catalog, renderer: Renderer, *, notification_id: str, now: datetime
) -> Notification:
    """Return the notification of a request.

    `send_at` is at least `now`; `expires_at` is at most `MAX_TTL` after `send_at`. Raises ValidationFailed naming every
    wrong field in the caller's spelling, and the fix.
    """
    template = catalog.get_template(request.template_code)
    catalog.check_audience(request.audience)
    send_at = max(_to_utc(request.send_at, "options.sendAt") or now, now)
    latest_expiry = min(send_at, now + MAX_SCHEDULE_AHEAD) + MAX_TTL
    expires_at = min(_to_utc(request.expires_at, "options.expiresAt") or latest_expiry, latest_expiry)
    subject = request.subject or _template_subject(template, renderer, request.variables)
    errors = [
        *_check_subject(subject),
        *_check_required_variables(template, renderer, request.variables),
        *_check_times(now, send_at, expires_at),
        *_check_channels(catalog, request.channels, "options.channels"),
        *check_steps(request.steps or (), catalog.known_channels, "options.steps"),
        *(_check_channels(catalog, request.digest.channels, "options.digest.channels") if request.digest else ()),
        *_check_action(request.action_url, request.action_text),
        *_check_variables_size(request.variables),
    ]
    if errors:
        raise ValidationFailed.from_errors(errors)
    notification = Notification(
        id=notification_id,
        template_code=template.code,
        template_version=template.version,
        category=template.category,
        audience=merge_user_list(catalog.pin_audience(request.audience, now)),
        # as read back from the store, so that the trial rendering below has the input of every later one
        variables=msgspec.json.decode(msgspec.json.encode(request.variables), type=dict[str, object]),
        priority=request.priority or template.priority,
        channels=tuple(dict.fromkeys(request.channels)),
        action_url=request.action_url,
        action_text=request.action_text,
        send_at=send_at,
        expires_at=expires_at,
        created_at=now,
        source=request.source,
        subject=subject.key if subject else None,
        subject_version=_find_version(subject, request),
        subject_state=subject.state if subject else None,
        subject_previous_state=subject.previous_state if subject else None,
        plan=_resolve_plan(request, template, renderer),
    )
    # trial rendering in the fallback locale: the caller learns of an error now, instead of 5 000 failed deliveries
    renderer.render(template, notification, "en", "UTC")
    return notification


def unknown_users_error(user_ids: Sequence[str]) -> ValidationFailed:
    """Return the error for an audience that mentions unknown users. The message lists the first five."""
    shown = ", ".join(repr(user_id) for user_id in user_ids[:5]) + (" …" if len(user_ids) > 5 else "")
    return ValidationFailed.for_field("userIds", f"no such user: {shown}; PUT /api/users/ID first", code="unknown_user")


def _resolve_plan(request: NotifyRequest, template: Template, renderer: Renderer) -> PlanOptions:
    """Return the options of the request, or else those of the template. False in the request turns them off.

    Raises ValidationFailed if the key of a digest or throttle has no value for the variables.
    """

    def resolve_key(options: OptionsT | None, name: str) -> OptionsT | None:
        if options is None:
            return None
        key = renderer.render_key(template, options.key, request.variables, f"options.{name}.key")
        return structs.replace(options, key_value=key)

    digest = template.plan.digest if request.digest is None else request.digest or None
    throttle = template.plan.throttle if request.throttle is None else request.throttle or None
    if throttle is not None and throttle.instead == "digest" and digest is None:
        raise ValidationFailed.for_field(
            "options.throttle.instead", "needs a digest: set options.digest, or use skip, because the template has none"
        )
    if throttle is not None and (throttle.limit < 1 or throttle.window_seconds < 1):
        # a template's own: those of callers were validated at the edge
        raise ValidationFailed.for_field(
            "options.throttle", "of the template needs a limit and a window of at least 1; give one, or false"
        )
    plan = PlanOptions(
        steps=template.plan.steps if request.steps is None else request.steps,
        digest=resolve_key(digest, "digest"),
        throttle=resolve_key(throttle, "throttle"),
        channel_selection=request.channel_selection or template.plan.channel_selection,
    )
    if (fault := plan.find_error()) is not None:
        raise ValidationFailed.for_field("options.digest.channels", fault)
    return plan


def _to_utc(value: datetime | None, field: str) -> datetime | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValidationFailed.for_field(field, "must have a UTC offset, e.g. 2026-11-22T18:00:00+01:00")
    try:
        return value.astimezone(UTC)
    except OverflowError:  # on the first or last day of the calendar, the offset leads out of its range
        raise ValidationFailed.for_field(field, "is out of range") from None


def _check_required_variables(
    template: Template, renderer: Renderer, variables: Mapping[str, object]
) -> list[FieldError]:
    given = set(variables) | set(template.defaults)
    return [
        FieldError(f"variables.{name}", f"is missing; template {template.code} uses it")
        for name in sorted(renderer.required_variables(template) - given)
    ]


def _check_times(now: datetime, send_at: datetime, expires_at: datetime) -> list[FieldError]:
    errors = []
    if send_at > now + MAX_SCHEDULE_AHEAD:
        errors.append(FieldError("options.sendAt", f"must be at most {MAX_SCHEDULE_AHEAD.days} days ahead"))
    if expires_at <= min(send_at, now + MAX_SCHEDULE_AHEAD):
        errors.append(FieldError("options.expiresAt", "must be in the future and after the time of sending"))
    return errors


def _check_channels(catalog: Catalog, channels: tuple[str, ...], field: str) -> list[FieldError]:
    known = ", ".join(catalog.known_channels)
    return [
        FieldError(f"{field}[{index}]", f"unknown channel {name!r}; known are {known}")
        for index, name in enumerate(channels)
        if name not in catalog.known_channels
    ]


def _check_action(url: str | None, text: str | None) -> list[FieldError]:
    errors = []
    if url is not None and (message := validate_link(url)) is not None:
        errors.append(FieldError("options.actionUrl", message))
    if text is not None and not (text.strip() and len(text) <= 200):
        errors.append(FieldError("options.actionText", "must have 1 to 200 characters"))
    return errors


def _template_subject(template: Template, renderer: Renderer, variables: Mapping[str, object]) -> SubjectRequest | None:
    key = renderer.render_subject(template, variables)
    return SubjectRequest(key) if key else None


def _find_version(subject: SubjectRequest | None, request: NotifyRequest) -> int | None:
    """Return the version that a request gives its subject, None if the store counts."""
    if subject is None or subject.version is not None or request.default_version is None:
        return None if subject is None else subject.version
    return request.default_version.version


def _check_subject(subject: SubjectRequest | None) -> list[FieldError]:
    if subject is None:
        return []
    errors = []
    if not (subject.key.strip() and len(subject.key) <= MAX_KEY_LENGTH and "\0" not in subject.key):
        errors.append(
            FieldError("options.subject", f"must have 1 to {MAX_KEY_LENGTH} characters, without the character NUL")
        )
    if subject.version is not None and not 0 <= subject.version <= MAX_VERSION:
        errors.append(FieldError("options.subject.version", f"must be from 0 to {MAX_VERSION}"))
    for name, state in (("state", subject.state), ("previousState", subject.previous_state)):
        if state is not None and len(msgspec.json.encode(state)) > MAX_STATE_BYTES:
            errors.append(FieldError(f"options.subject.{name}", f"must take at most {MAX_STATE_BYTES} bytes as JSON"))
    return errors


def _check_variables_size(variables: Mapping[str, object]) -> list[FieldError]:
    try:
        size = len(msgspec.json.encode(variables))
    except (TypeError, ValueError) as error:
        return [FieldError("variables", f"must contain JSON values only: {error}")]
    if size > MAX_VARIABLES_BYTES:
        return [FieldError("variables", f"must take at most {MAX_VARIABLES_BYTES} bytes as JSON, not {size}")]
    return []
