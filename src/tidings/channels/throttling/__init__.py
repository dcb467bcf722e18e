"""Throttling per server: circuit breaker, AIMD limits of concurrency and rate, pace, retry slots.

Takes: what the answers of a server say about it.
Gives: whether and when the next message may be sent there.
Never: decides what becomes of a message, or reads the database.
"""
