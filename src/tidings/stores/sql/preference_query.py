"""The part of queries that reads preferences: which entries of a user may apply to a notification."""

from sqlalchemy import ColumnElement, and_, func, literal, or_

from tidings.model.preference import ALL_SUBJECTS, ANY, Condition, Preference
from tidings.model.subject import SEPARATOR
from tidings.stores.schema.tables import preferences

_p = preferences.c
#: key, choice and condition: the columns of `to_preference`
PREFERENCE_COLUMNS = (_p.category, _p.channel, _p.subject, _p.enabled, _p.condition)


def find_preferences(
    user_id: ColumnElement[str], category: ColumnElement[str], subject: ColumnElement[str | None]
) -> ColumnElement[bool]:
    """Return the condition that an entry is of a user, and may apply to a category and a subject, or `ALL_SUBJECTS`.

    The primary key finds the entries of the user by user and category. Their subjects are compared one by one.
    """
    prefix = _p.subject.concat(SEPARATOR)
    return and_(
        _p.user_id == user_id,
        _p.category.in_([literal(ANY), category]),
        or_(
            _p.subject == ANY,
            _p.subject == subject,
            subject == ALL_SUBJECTS,
            func.substr(subject, 1, func.length(prefix)) == prefix,
        ),
    )


def to_preference(
    category: str, channel: str, entry_subject: str, enabled: bool, condition: dict[str, object] | None
) -> Preference:
    """Return the entry of the joined columns."""
    return Preference(category, channel, enabled, entry_subject, Condition.from_json(condition))
