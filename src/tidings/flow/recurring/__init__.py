"""Recurring notifications: from a time that has come to an accepted notification.

Takes: definitions whose time has come, and their runs.
Gives: one run per occurrence, and one notification per run, or the reason why there is none.
Never: makes a run twice, waits for a source within a transaction, or makes up for more than the last occurrence.
"""
