"""Counters of the rate limits of routes, in the memory of a process or shared through Redis.

Takes: the name of a limit, the key of a caller, the limit itself.
Gives: whether the call is allowed, and when the next one is.
Never: knows routes, users or addresses; rejects calls because Redis is unavailable.
"""
