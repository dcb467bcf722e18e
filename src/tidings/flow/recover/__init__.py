"""Stage recover: finds work that a crash or a queue reset left behind.

Takes: the state of the database. Gives: re-enqueued tasks, released leases. Never: sends.
"""
