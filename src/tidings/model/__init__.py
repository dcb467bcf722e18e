"""Frozen, typed records that cross a hop. Nothing here does I/O or knows a technology."""
