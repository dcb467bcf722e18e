"""A list of strings as one bound parameter, so that the statement is the same for 1 and for 10 000 of them."""

from collections.abc import Collection

import msgspec
from sqlalchemy import Select, String, column, func, select


def json_list(values: Collection[str]) -> Select[str]:
    """Return a SELECT of the values, for `IN (…)` or a join. SQLite's `json_each` reads them."""
    rows = func.json_each(msgspec.json.encode(list(values)).decode()).table_valued(column("value", String))
    return select(rows.c.value)
