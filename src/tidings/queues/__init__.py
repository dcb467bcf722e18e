"""Adapters of the `Queue` port: in memory, on BullMQ, and BullMQ with a local fallback.

Takes: tasks.
Gives: each task to a consumer once it is due, and again until it is acknowledged.
Never: holds work. A task contains ids only; the database has the work itself.
"""
