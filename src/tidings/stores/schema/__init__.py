"""The database schema: tables, migrations, partitions and retention."""
