"""Logs, metrics, system status, explanations of single notifications, and the personal data of a user.

Takes: recorded facts from the database, and counters of this process.
Gives: log lines, metrics, the status of queue and processes, and an explanation per user and notification.
Never: influences sending, logs personal data, or shows other users' ids in an explanation.
"""
