"""Checks of audience arguments that need the database: does the event exist whose ticket holders are notified?

An argument that names nothing would select nobody, and the caller would learn of it from no response.
"""

from collections.abc import Mapping, Sequence

import msgspec

from tidings.errors import FieldError, ValidationFailed
from tidings.model.notification import Notification
from tidings.model.saved_audience import iter_leaves
from tidings.ports.pack import AudienceKind
from tidings.ports.store import Transaction


async def reject_unknown_arguments(
    tx: Transaction, results: Sequence[Notification | ValidationFailed], kinds: Mapping[str, AudienceKind]
) -> list[Notification | ValidationFailed]:
    """Replace notifications whose audience has an argument that its kind rejects (`AudienceKind.check`) by an error.

    Equal sets are checked once.
    """
    #: kind and arguments as JSON → errors by parameter
    checked: dict[bytes, Mapping[str, str]] = {}
    outcome: list[Notification | ValidationFailed] = []
    for result in results:
        errors: list[FieldError] = []
        for path, leaf in iter_leaves(result.audience, "audience") if isinstance(result, Notification) else ():
            check = kinds[leaf.kind].check
            if check is None:
                continue
            key = msgspec.json.encode((leaf.kind, leaf.arguments), order="deterministic")
            if key not in checked:
                checked[key] = await check(tx, leaf.arguments)
            errors += [FieldError(f"{path}.{name}", message) for name, message in checked[key].items()]
        outcome.append(ValidationFailed.from_errors(errors) if errors else result)
    return outcome
