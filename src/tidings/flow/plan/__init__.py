"""The plan: a chain of pure rules that decides on each recipient and channel, and again just before sending.

Takes: a candidate and the context of its notification. Gives: a verdict. Never: reads a database, a clock or a setting.
"""
