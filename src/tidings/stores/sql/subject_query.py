"""Conditions on the users that the audiences of the notifications on one subject list."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    TableValuedAlias,
    Text,
    and_,
    case,
    cast,
    func,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from tidings.stores.schema.tables import notifications
from tidings.stores.sql.json_params import JsonTexts, text_array

_newer = notifications.alias("newer")


class _JsonLength(FunctionElement[int]):
    """The number of items of a JSON array."""

    type = Integer()
    inherit_cache = True


@compiles(_JsonLength, "sqlite")
def _compile_length_sqlite(element: _JsonLength, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_length({compiler.process(element.clauses, **options)})"


@compiles(_JsonLength, "postgresql")
def _compile_length_postgresql(element: _JsonLength, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_array_length({compiler.process(element.clauses, **options)})"


def match_list(source: FromClause) -> ColumnElement[bool]:
    """Return whether the audience of a notification is a list of users."""
    return func.coalesce(source.c.audience["kind"].as_string() == "users", False)


def count_users(source: FromClause) -> ColumnElement[int]:
    """Return how many users the audience of a notification lists, 0 if it is described otherwise."""
    # CASE, because PostgreSQL may evaluate the conditions of an AND in any order
    return case((match_list(source), _JsonLength(source.c.audience["userIds"])), else_=0)


def match_users(source: FromClause, user_ids: Collection[str]) -> ColumnElement[bool]:
    """Return whether the audience of a notification lists all of some users."""
    listed = _list_users(source)
    matching = select(func.count()).where(listed.c.value.in_(text_array(user_ids))).correlate(source).scalar_subquery()
    return case((count_users(source) >= len(user_ids), matching == len(user_ids)), else_=False)


def find_newer_for_user(source: FromClause, user_id: ColumnElement[str]) -> ColumnElement[str | None]:
    """Return the id of the newest notification that supersedes this one for one of several listed users.

    NULL if there is none, if the audience lists no other user or is described otherwise: such a notification is
    superseded as a whole, see `superseded_by`. source: `notifications`, or an alias of it.
    """
    listed = _list_users(_newer)
    newest = (
        select(_newer.c.id)
        .where(
            _newer.c.subject == source.c.subject,
            _newer.c.subject_version > source.c.subject_version,
            match_list(_newer),
            user_id.in_(select(listed.c.value).correlate(_newer)),
        )
        .order_by(_newer.c.subject_version.desc(), _newer.c.id.desc())
        .limit(1)
        .correlate(source, *user_id._from_objects)
        .scalar_subquery()
    )
    is_partly_superseded = and_(source.c.subject.is_not(None), count_users(source) > 1)
    return case((is_partly_superseded, newest))


def _list_users(source: FromClause) -> TableValuedAlias:
    """Return the users that an audience lists as rows with one column, `value`."""
    return JsonTexts(cast(source.c.audience["userIds"], Text)).table_valued("value").alias("listed")
