"""A list of strings as one bound parameter, so that the statement is the same for 1 and for 10 000 of them."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, Text, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from tidings.model.ids import is_id
from tidings.stores.json_rows import Typed, as_json
from tidings.stores.types import Id


class JsonTexts(FunctionElement[str]):
    """The strings of a JSON list, given as text, as rows of one column, `value`."""

    name = "json_texts"
    inherit_cache = True


@compiles(JsonTexts, "sqlite")
def _on_sqlite(element: JsonTexts, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(JsonTexts, "postgresql")
def _on_postgresql(element: JsonTexts, compiler: SQLCompiler, **options: Any) -> str:
    return f"jsonb_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS JSONB))"


def json_list(values: Collection[str]) -> Select[str]:
    """Return a SELECT of the texts (user ids, codes), for `IN (…)` or a join."""
    return _select(list(values), Text())


def json_ids(ids: Collection[str]) -> Select[str]:
    """Return a SELECT of our own ids, for `IN (…)` or a join with a column of type `Id`. What is no id is left out."""
    return _select([one for one in ids if is_id(one)], Id)


def _select(values: list[str], type_: TypeEngine[str]) -> Select[str]:
    rows = JsonTexts(literal(as_json(values), Text)).table_valued("value").alias("one")
    return select(Typed(rows.c.value, type_))
