"""Adapters of the `Store` port: one SQLAlchemy Core schema, its queries, its migrations.

SQL appears only here and in the packs' own stores; each statement stands at one named place.
"""
