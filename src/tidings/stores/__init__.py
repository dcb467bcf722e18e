"""Adapter of the `Store` port on SQLite and PostgreSQL: engines, schema, migrations and repositories.

Uses SQLAlchemy Core. SQL appears only here and in the repositories of packs.
"""
