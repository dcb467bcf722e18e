"""Adapters of the `Presence` port: in memory, on Redis, and on Redis with a local fallback.

Takes: the reports of nodes about their viewers.
Gives: counts, and the end of each epoch of a room to one caller.
Never: sends notifications. The caller records an end and decides what it means.
"""
