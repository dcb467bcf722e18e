"""Conditions on the attributes of users, a JSON column, with the same result on both databases.

A comparison is typed: a number is compared with numbers, a text with texts by their bytes. An attribute of another
type, or none, matches nothing. The expressions are NULL then, so use them within EXISTS only.
"""

from typing import Any

from sqlalchemy import ColumnElement, Text, and_, false, func, literal, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from tidings.stores.sql.json_params import encode_json

#: a value that an attribute is compared with
Scalar = str | bool | int | float


class _JsonType(FunctionElement[str]):
    """The type of the value at a path, NULL without one. Arguments: column, path as texts of both databases."""

    name = "attribute_type"
    inherit_cache = True


class _TextAt(FunctionElement[str]):
    """The text at a path, NULL for another type."""

    name = "attribute_text"
    inherit_cache = True


class _NumberAt(FunctionElement[Any]):
    """The number at a path, NULL for another type."""

    name = "attribute_number"
    inherit_cache = True


class _FlagAt(FunctionElement[str]):
    """The boolean at a path as `true` or `false`, NULL for another type."""

    name = "attribute_flag"
    inherit_cache = True


class _GivenNumber(FunctionElement[Any]):
    """A number given as JSON text."""

    name = "given_number"
    inherit_cache = True


class _HasItem(FunctionElement[bool]):
    """Whether the list at a path contains a value. Arguments: column, paths, value as JSON text."""

    name = "attribute_has_item"
    inherit_cache = True
    type = false().type


def match_attribute(column: ColumnElement[Any], name: str, operator: str, value: object) -> ColumnElement[bool]:
    """Return the condition of an operator.

    column: the JSON column. name: keys joined with dots, validated. operator: `eq`, `ne`, `in`, `gt`, `gte`, `lt`,
    `lte`, `contains` or `exists`. value: a `Scalar`; a list of them for `in`; ignored for `exists`.
    """
    path = (column, literal("$" + "".join(f'."{key}"' for key in name.split(".")), Text), literal(name, Text))
    is_present = and_(_JsonType(*path).is_not(None), _JsonType(*path) != "null")
    match operator, value:
        case "exists", _:
            return is_present
        case "in", list(values):
            return or_(*(_equal(path, one) for one in values))
        case "eq", str() | bool() | int() | float():
            return _equal(path, value)
        case "ne", str() | bool() | int() | float():
            return and_(is_present, func.coalesce(_equal(path, value), false()) == false())
        case "contains", str() | bool() | int() | float():
            return _contain(path, value)
        case (("gt" | "gte" | "lt" | "lte"), str() | int() | float()):
            return _compare(path, operator, value)
        case _:
            raise AssertionError(f"validated on acceptance: {operator} {value!r}")


def _equal(path: tuple[ColumnElement[Any], ...], value: Scalar) -> ColumnElement[bool]:
    if isinstance(value, bool):
        return _FlagAt(*path) == encode_json(value)
    if isinstance(value, str):
        return _TextAt(*path) == value
    return _NumberAt(*path) == _GivenNumber(literal(encode_json(value), Text))


def _compare(path: tuple[ColumnElement[Any], ...], operator: str, value: str | float) -> ColumnElement[bool]:
    stored: ColumnElement[Any]
    given: ColumnElement[Any]
    if isinstance(value, str):
        stored, given = _TextAt(*path), literal(value, Text)
    else:
        stored, given = _NumberAt(*path), _GivenNumber(literal(encode_json(value), Text))
    match operator:
        case "gt":
            return stored > given
        case "gte":
            return stored >= given
        case "lt":
            return stored < given
        case _:
            return stored <= given


def _contain(path: tuple[ColumnElement[Any], ...], value: Scalar) -> ColumnElement[bool]:
    has_item = _HasItem(*path, literal(encode_json(value), Text))
    return or_(has_item, _contain_text(path, value)) if isinstance(value, str) else has_item


def _contain_text(path: tuple[ColumnElement[Any], ...], value: str) -> ColumnElement[bool]:
    return _FindText(_TextAt(*path), literal(value, Text)) > 0


class _FindText(FunctionElement[int]):
    """The position of a text within another from 1, 0 if it is not in it."""

    name = "find_text"
    inherit_cache = True


def _arguments(
    element: FunctionElement[Any], compiler: SQLCompiler, options: dict[str, Any], *indexes: int
) -> list[str]:
    clauses = list(element.clauses)
    return [compiler.process(clauses[index], **options) for index in indexes]


def _sqlite_path(element: FunctionElement[Any], compiler: SQLCompiler, options: dict[str, Any]) -> str:
    column, path = _arguments(element, compiler, options, 0, 1)
    return f"{column}, {path}"


def _postgresql_path(element: FunctionElement[Any], compiler: SQLCompiler, options: dict[str, Any]) -> str:
    column, keys = _arguments(element, compiler, options, 0, 2)
    return f"{column} #> string_to_array({keys}, '.')"


@compiles(_JsonType, "sqlite")
def _compile_type_sqlite(element: _JsonType, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_type({_sqlite_path(element, compiler, options)})"


@compiles(_JsonType, "postgresql")
def _compile_type_postgresql(element: _JsonType, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_typeof({_postgresql_path(element, compiler, options)})"


@compiles(_TextAt, "sqlite")
def _compile_text_sqlite(element: _TextAt, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_sqlite_path(element, compiler, options) for _ in range(2))
    return f"CASE json_type({first}) WHEN 'text' THEN json_extract({second}) END"


@compiles(_TextAt, "postgresql")
def _compile_text_postgresql(element: _TextAt, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_postgresql_path(element, compiler, options) for _ in range(2))
    # by bytes, as SQLite compares
    return f"""(CASE jsonb_typeof({first}) WHEN 'string' THEN ({second}) #>> '{{}}' END COLLATE "C")"""


@compiles(_NumberAt, "sqlite")
def _compile_number_sqlite(element: _NumberAt, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_sqlite_path(element, compiler, options) for _ in range(2))
    return f"CASE WHEN json_type({first}) IN ('integer', 'real') THEN json_extract({second}) END"


@compiles(_NumberAt, "postgresql")
def _compile_number_postgresql(element: _NumberAt, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_postgresql_path(element, compiler, options) for _ in range(2))
    return f"(CASE jsonb_typeof({first}) WHEN 'number' THEN CAST(({second}) #>> '{{}}' AS numeric) END)"


@compiles(_FlagAt, "sqlite")
def _compile_flag_sqlite(element: _FlagAt, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_sqlite_path(element, compiler, options) for _ in range(2))
    return f"CASE WHEN json_type({first}) IN ('true', 'false') THEN json_type({second}) END"


@compiles(_FlagAt, "postgresql")
def _compile_flag_postgresql(element: _FlagAt, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_postgresql_path(element, compiler, options) for _ in range(2))
    return f"(CASE jsonb_typeof({first}) WHEN 'boolean' THEN ({second}) #>> '{{}}' END)"


@compiles(_GivenNumber, "sqlite")
def _compile_given_sqlite(element: _GivenNumber, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_extract({compiler.process(element.clauses, **options)}, '$')"


@compiles(_GivenNumber, "postgresql")
def _compile_given_postgresql(element: _GivenNumber, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(CAST({compiler.process(element.clauses, **options)} AS text) AS numeric)"


@compiles(_HasItem, "sqlite")
def _compile_item_sqlite(element: _HasItem, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_sqlite_path(element, compiler, options) for _ in range(2))
    [given, again] = [_arguments(element, compiler, options, 3)[0] for _ in range(2)]
    # 1 and 1.0 are equal, 1 and true are not
    is_equal = f"item.atom = json_extract({given}, '$')"
    is_of_type = f"replace(item.type, 'integer', 'real') = replace(json_type({again}), 'integer', 'real')"
    found = f"EXISTS (SELECT 1 FROM json_each({second}) AS item WHERE {is_equal} AND {is_of_type})"  # noqa: S608  # binds
    return f"(json_type({first}) = 'array' AND {found})"


@compiles(_HasItem, "postgresql")
def _compile_item_postgresql(element: _HasItem, compiler: SQLCompiler, **options: Any) -> str:
    first, second = (_postgresql_path(element, compiler, options) for _ in range(2))
    [given] = _arguments(element, compiler, options, 3)
    # a scalar contains itself, so the type is checked
    return f"(jsonb_typeof({first}) = 'array' AND ({second}) @> CAST({given} AS jsonb))"


@compiles(_FindText, "sqlite")
def _compile_find_sqlite(element: _FindText, compiler: SQLCompiler, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(_FindText, "postgresql")
def _compile_find_postgresql(element: _FindText, compiler: SQLCompiler, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)})"
