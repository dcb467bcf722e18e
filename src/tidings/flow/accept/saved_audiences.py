"""Replaces saved audiences by their definitions when a notification is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tidings.errors import ValidationFailed
from tidings.model.audience import MAX_DEPTH, Audience, mentioned_user_ids
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.saved_audience import SavedAudience, expand_saved, list_saved_names
from tidings.ports.store import Store, Transaction


async def load_saved(store: Store, tx: Transaction, audiences: Sequence[Audience]) -> Mapping[str, SavedAudience]:
    """Return the saved audiences that some audiences mention, and those that these mention. One query per level.

    Unknown names, and names below `MAX_DEPTH` levels, are left out. No query without a mention.
    """
    known: dict[str, SavedAudience] = {}
    for _ in range(MAX_DEPTH):
        names = {name for audience in audiences for name in list_saved_names(audience)} - known.keys()
        if not names:
            break
        found = await store.saved_audiences.get_many(tx, names)
        known.update(found)
        audiences = [saved.definition for saved in found.values()]
    return known


async def expand_audience(store: Store, tx: Transaction, audience: Audience, path: str = "audience") -> Audience:
    """Return an audience without mentions of saved ones. Raises ValidationFailed as `expand_saved`."""
    return expand_saved(audience, await load_saved(store, tx, [audience]), path)


async def expand_requests(
    store: Store, tx: Transaction, requests: Sequence[NotifyRequest]
) -> Sequence[NotifyRequest | ValidationFailed]:
    """Return the requests with their audiences expanded, an error for each that cannot be."""
    mentioning = [request.audience for request in requests if list_saved_names(request.audience)]
    if not mentioning:
        return requests
    known = await load_saved(store, tx, mentioning)
    return [_try_expand(request, known) if list_saved_names(request.audience) else request for request in requests]


def _try_expand(request: NotifyRequest, known: Mapping[str, SavedAudience]) -> NotifyRequest | ValidationFailed:
    try:
        return replace(request, audience=expand_saved(request.audience, known))
    except ValidationFailed as error:
        return error


def list_required_users(written: Audience, expanded: Audience) -> list[str]:
    """Return the ids of the users that must exist for an audience to be accepted, each once.

    written: as the caller wrote it. An unknown user whom it excludes is an error: probably the id is misspelt, and the
    user would be notified. expanded: with the definitions of its saved audiences. Exclusions in these are not checked
    again, because their caller cannot correct them.
    """
    ids = mentioned_user_ids(written, with_excluded=True)
    if list_saved_names(written):
        ids += mentioned_user_ids(expanded)
    return list(dict.fromkeys(ids))


async def reject_empty_audiences(
    store: Store,
    tx: Transaction,
    requests: Sequence[NotifyRequest],
    results: Sequence[Notification | ValidationFailed],
) -> list[Notification | ValidationFailed]:
    """Replace notifications to saved audiences by an error if nobody is in them now.

    Their callers cannot see the definition. Other audiences are not read here: the caller described them.
    """
    outcome: list[Notification | ValidationFailed] = []
    for request, result in zip(requests, results, strict=True):
        if isinstance(result, Notification) and (names := list_saved_names(request.audience)):
            first = await store.audiences.page(tx, result.audience, category=result.category, after=None, limit=1)
            if not first:
                outcome.append(_empty_audience(names))
                continue
        outcome.append(result)
    return outcome


def _empty_audience(names: Sequence[str]) -> ValidationFailed:
    return ValidationFailed.for_field(
        "audience",
        f"has no users now, with the definition of {', '.join(map(repr, names))}; "
        "GET /api/audiences/{name}/estimate counts them",
        code="empty_audience",
    )
