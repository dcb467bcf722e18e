"""Stage fan-out: turns an audience into deliveries and skips, a page at a time.

Takes: accepted notifications. Gives: a planned delivery or a skip for each recipient and channel. Never: sends.
"""
