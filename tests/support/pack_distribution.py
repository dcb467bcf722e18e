"""A pack in a distribution of its own: a folder for `sys.path` with a package, its migrations and its metadata."""

from pathlib import Path

_PACK = '''"""Reservations of a library."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Column, ForeignKey, Index, MetaData, Select, String, Table, select

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText
from tidings.ports.pack import AudienceKind, Pack
from tidings.stores.schema.tables import users

reservations = Table(
    "reservations",
    MetaData(),
    Column("book_id", String(36), primary_key=True),
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), primary_key=True),
    Index("ix_reservations_user", "user_id"),
)


def reserved(arguments: Mapping[str, object]) -> Select[str]:
    return select(reservations.c.user_id).where(reservations.c.book_id == arguments["bookId"])


pack = Pack(
    name="library",
    categories=(Category("LOAN", "My loans"),),
    templates=(
        Template(
            code="BOOK_READY",
            category="LOAN",
            priority=Priority.HIGH,
            texts={
                "en": TemplateText("{{ title }}", "is ready"),
                "de": TemplateText("{{ title }}", GERMAN_BODY),
            },
        ),
    ),
    audiences=(AudienceKind("reserved", {"bookId": "book-1"}, reserved, "reserved book {bookId}"),),
    migrations=Path(__file__).parent / "migrations",
)
'''
_MIGRATIONS = {
    "m0001_reservations.py": '''"""Creates the table of reservations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# as in users.id
USER_ID = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "reservations",
        sa.Column("book_id", sa.String(36), primary_key=True),
        sa.Column("user_id", USER_ID, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("reservations")
''',
    "m0002_index.py": '''"""Adds the index for erasing a user."""

from tidings.stores.migrations.indexes import create_index
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    create_index("ix_reservations_user", "reservations", "user_id")


def downgrade() -> None:
    op.drop_index("ix_reservations_user", "reservations")
''',
}


def write_distribution(folder: Path, *, german_body: str = "liegt bereit") -> Path:
    """Write the distribution `library-pack` and return the folder. german_body: a text of its template."""
    package, metadata = folder / "library_pack", folder / "library_pack-1.0.dist-info"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text(_PACK.replace("GERMAN_BODY", repr(german_body)))
    for name, text in _MIGRATIONS.items():
        (package / "migrations" / name).write_text(text)
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: library-pack\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tidings.packs]\nlibrary = library_pack:pack\n")
    return folder
