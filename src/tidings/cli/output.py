"""Output of results: JSON for programs, tables for people."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

#: length of a UUID; longer user ids may be folded
_ID_WIDTH = 36


def print_json(value: object, *, indent: int = 2) -> None:
    """Print one JSON document; indent 0 prints it on one line."""
    encoded = msgspec.json.encode(value)
    print((msgspec.json.format(encoded, indent=indent) if indent else encoded).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table, or the sentence `empty` if there are no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [[_format_cell(value) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, show_header=any(columns))
    for index, column in enumerate(columns):
        # Text that does not fit is folded, not cut. Columns of ids keep their width, because people copy ids.
        longest_id = max((len(row[index]) for row in cells), default=0) if column.endswith("id") else 0
        table.add_column(column, overflow="fold", min_width=min(longest_id, _ID_WIDTH))
    for row in cells:
        table.add_row(*row)
    if table.row_count:
        # A pipe has no width: use one that leaves ids whole, so that they can be copied and searched for.
        Console(width=None if sys.stdout.isatty() else 200).print(table)
    else:
        print(empty)


def print_hint(text: str) -> None:
    """Print a note for people on stderr, so that stdout can be piped."""
    print(text, file=sys.stderr)


def _format_cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, frozenset | set):
        return " ".join(sorted(str(item) for item in value))
    return escape(str(value))
