"""Stage accept: validates requests and stores them as notifications.

Takes: requests. Gives: notifications with their tasks in the outbox. Never: sends, or publishes before the commit.
"""
