"""Presence: takes signs of life, gives each vacancy of a room once, never tells anybody.

Adapters of the port `Presence`: in the process, on Redis, and on Redis with a way out.
"""
