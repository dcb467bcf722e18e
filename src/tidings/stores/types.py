"""Column types that mean the same on both dialects, where SQLAlchemy's own would not."""

from typing import Any

from sqlalchemy import Dialect, String, TypeDecorator, Uuid
from sqlalchemy.types import TypeEngine

from tidings.model.ids import is_id


class IdType(TypeDecorator[str]):
    """Our own ids: readable text on SQLite, `uuid` on PostgreSQL.

    There a text that is no id cannot be written down as one. It becomes NULL, which equals nothing: whoever asks for
    `/notifications/nonsense` finds none, as on SQLite, and no error.
    """

    impl = String(36)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Uuid(as_uuid=False) if dialect.name == "postgresql" else String(36))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if value is None or dialect.name != "postgresql" or is_id(value) else None


Id = IdType()
