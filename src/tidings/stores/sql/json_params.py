"""Lists and rows as one bound JSON parameter, so that the statement is the same for any number of them.

The database expands the JSON, so Python does no work per row. On SQLite, recording an outcome with its attempt takes
23 µs of CPU, compared with 39 µs with SQLAlchemy's `executemany`.

CPU time of client and server for 1 000 new rows of 9 columns on PostgreSQL through asyncpg:

| method | ms |
|---|---|
| `COPY` (supports neither conditions nor conflicts) | 7.3 |
| a list of lists as jsonb (this module) | 10.7 |
| `unnest` of nine arrays (8.6 ms of it to encode them in the client) | 13.3 |
| `executemany` | 14.9 |
| `jsonb_to_recordset` | 15.6 |
| a list of lists as json | 17.1 |
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    Cast,
    ColumnElement,
    Select,
    SQLColumnExpression,
    String,
    Subquery,
    Text,
    bindparam,
    literal,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from tidings.errors import ValidationFailed
from tidings.model.ids import is_id
from tidings.stores.engine.error_mapping import INVALID_TEXT_MESSAGE
from tidings.stores.sql.ids import Id


class JsonItems(FunctionElement[Any]):
    """The items of a JSON array, given as text, as rows with one column, `value`."""

    name = "json_items"
    inherit_cache = True


class JsonTexts(FunctionElement[str]):
    """The strings of a JSON array, given as text, as rows with one column, `value`."""

    name = "json_texts"
    inherit_cache = True


class CastOnPostgres(Cast[Any]):
    """A JSON value as the type of a column: cast on PostgreSQL, unchanged on SQLite."""

    inherit_cache = True


class _JsonElement(FunctionElement[Any]):
    """The item of a JSON array at an index: as text on PostgreSQL, unchanged on SQLite."""

    name = "json_at"
    inherit_cache = True


@compiles(JsonItems, "sqlite")
def _compile_items_sqlite(element: JsonItems, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(JsonItems, "postgresql")
def _compile_items_postgresql(element: JsonItems, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_array_elements(CAST({compiler.process(element.clauses, **options)} AS JSONB))"


@compiles(JsonTexts, "sqlite")
def _compile_texts_sqlite(element: JsonTexts, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(JsonTexts, "postgresql")
def _compile_texts_postgresql(element: JsonTexts, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS JSONB))"


@compiles(CastOnPostgres, "sqlite")
def _compile_cast_sqlite(element: CastOnPostgres, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clause, **options)


@compiles(_JsonElement, "sqlite")
def _compile_element_sqlite(element: _JsonElement, compiler: SQLCompiler, **options: Any) -> str:
    value, index = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_extract({value}, '$[{index}]')"


@compiles(_JsonElement, "postgresql")
def _compile_element_postgresql(element: _JsonElement, compiler: SQLCompiler, **options: Any) -> str:
    value, index = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({value} ->> {index})"


def rowset(parameter: str, *columns: SQLColumnExpression[Any] | str, alias: str = "given") -> Subquery:
    """Return a derived table read from a parameter, which is a JSON array of arrays (see `encode_rows`).

    columns: columns of a table or `sqlalchemy.column(name, type)`, for names and types; a string is a text column.
    alias: name of the derived table, to be unique within the statement.
    """
    row = JsonItems(bindparam(parameter, type_=Text)).table_valued("value").alias("one")
    values = [
        CastOnPostgres(_JsonElement(row.c.value, literal_column(str(index))), _column_type(column)).label(
            _column_name(column)
        )
        for index, column in enumerate(columns)
    ]
    return select(*values).select_from(row).subquery(alias)


def text_array(values: Collection[str]) -> Select[str]:
    """Return a SELECT of texts (user ids, codes), for `IN (…)` or a join."""
    return _select_values(list(values), Text())


def id_array(ids: Collection[str]) -> Select[str]:
    """Return a SELECT of ids, for `IN (…)` or a join with a column of type `Id`. Skips strings that are not ids."""
    return _select_values([value for value in ids if is_id(value)], Id)


def _select_values(values: list[str], type_: TypeEngine[str]) -> Select[str]:
    rows = JsonTexts(literal(encode_json(values), Text)).table_valued("value").alias("one")
    return select(CastOnPostgres(rows.c.value, type_))


def encode_rows(rows: Sequence[Sequence[object]]) -> str:
    """Return the value of a `rowset` parameter. Instants must be encoded by `encode_instant`."""
    return encode_json(rows)


def encode_json(value: object) -> str:
    """Return a value as JSON. Raises ValidationFailed for a text with an unpaired surrogate."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise ValidationFailed(INVALID_TEXT_MESSAGE, code="unstorable_value") from error


def encode_instant(value: datetime) -> str:
    """Return an instant as text in the format of the column type `Instant`, so that both are comparable."""
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _column_name(column: SQLColumnExpression[Any] | str) -> str:
    if isinstance(column, str):
        return column
    name: str = getattr(column, "name")  # noqa: B009  # columns have a name, other expressions may not
    return name


def _column_type(column: SQLColumnExpression[Any] | str) -> TypeEngine[Any]:
    # a cast to varchar(n) would truncate a long value instead of raising an error
    return column.type if isinstance(column, ColumnElement) and not isinstance(column.type, String) else Text()
