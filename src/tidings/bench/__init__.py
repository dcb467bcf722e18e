"""Benchmarks of `tidings bench`. They measure the shipped processes with a real database over the public API."""
