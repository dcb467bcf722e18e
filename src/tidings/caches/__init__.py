"""Adapters of the `Cache` port: in memory, or shared through Redis.

Takes: bytes by key, each with a time to live.
Gives: values that are neither expired nor invalidated by any process.
Never: raises for an unavailable server, or decides what may be cached.
"""
