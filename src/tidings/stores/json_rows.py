"""Many rows as one bound parameter: one statement, however many rows, and no work per row in Python's hands.

A list of rows travels as JSON and is taken apart by the database. Measured on SQLite, recording an outcome with its
try: 23 µs of CPU instead of 39 with `executemany` through SQLAlchemy (`docs/explanation/performance.md`).

On PostgreSQL through asyncpg, 1 000 new rows of 9 columns cost, client and server CPU together: this (a list of lists
as jsonb) 10.7 ms; `unnest` of nine arrays 13.3 (8.6 of them here, to encode them); `jsonb_to_recordset` 15.6;
`executemany` 14.9; the same as json instead of jsonb 17.1. COPY takes 7.3, but knows no condition and no conflict.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    Cast,
    ColumnElement,
    SQLColumnExpression,
    String,
    Subquery,
    Text,
    bindparam,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from tidings.errors import Invalid
from tidings.stores.faults import NO_TEXT


class JsonItems(FunctionElement[Any]):
    """The items of a JSON list, given as text, as rows of one column, `value`."""

    name = "json_items"
    inherit_cache = True


class Typed(Cast[Any]):
    """A value out of JSON in the type of a column: PostgreSQL needs a cast, SQLite has the value as it is."""

    inherit_cache = True


class _At(FunctionElement[Any]):
    """The item of a list at a place, as text on PostgreSQL and as it is on SQLite, which needs no types."""

    name = "json_at"
    inherit_cache = True


@compiles(JsonItems, "sqlite")
def _items_on_sqlite(element: JsonItems, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(JsonItems, "postgresql")
def _items_on_postgresql(element: JsonItems, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_array_elements(CAST({compiler.process(element.clauses, **options)} AS JSONB))"


@compiles(Typed, "sqlite")
def _typed_on_sqlite(element: Typed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clause, **options)


@compiles(_At, "sqlite")
def _at_on_sqlite(element: _At, compiler: SQLCompiler, **options: Any) -> str:
    value, place = (compiler.process(one, **options) for one in element.clauses)
    return f"json_extract({value}, '$[{place}]')"


@compiles(_At, "postgresql")
def _at_on_postgresql(element: _At, compiler: SQLCompiler, **options: Any) -> str:
    value, place = (compiler.process(one, **options) for one in element.clauses)
    return f"({value} ->> {place})"


def json_rows(parameter: str, *columns: SQLColumnExpression[Any] | str, alias: str = "given") -> Subquery:
    """Return a derived table with these columns, read from the parameter, a JSON list of lists (see `encoded`).

    columns: columns of a table, or `sqlalchemy.column(name, type)`, for their names and types; a bare name is text.
    alias: its name, for a statement that reads several.
    """
    one = JsonItems(bindparam(parameter, type_=Text)).table_valued("value").alias("one")
    values = [
        Typed(_At(one.c.value, literal_column(str(place))), _type(column)).label(_name(column))
        for place, column in enumerate(columns)
    ]
    return select(*values).select_from(one).subquery(alias)


def encoded(rows: Sequence[Sequence[object]]) -> str:
    """Return the value of the parameter. Instants go in as `instant` writes them, everything else as JSON values."""
    return as_json(rows)


def as_json(value: object) -> str:
    """Return a value as JSON. Raises Invalid for a text that is none (half of a surrogate pair)."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise Invalid(NO_TEXT, code="unstorable_value") from error


def instant(value: datetime) -> str:
    """Return an instant as the type `Instant` writes it, so that both compare."""
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _name(column: SQLColumnExpression[Any] | str) -> str:
    if isinstance(column, str):
        return column
    name: str = getattr(column, "name")  # noqa: B009  # of every column, but not of every expression
    return name


def _type(column: SQLColumnExpression[Any] | str) -> TypeEngine[Any]:
    # a cast to varchar(n) would cut off what is too long, instead of saying so
    return column.type if isinstance(column, ColumnElement) and not isinstance(column.type, String) else Text()
