"""Stage dispatch: publishes committed work to the queue.

Takes: due outbox rows. Gives: tasks on the lanes of the queue. Never: decides what the work is.
"""
