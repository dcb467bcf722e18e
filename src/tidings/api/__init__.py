"""The HTTP door.

Takes: requests of servers (API keys) and browsers (user tokens).
Gives: calls of the pipeline and the store, answers as JSON or problem documents.
Never: decides who is notified, opens a connection to anybody else.
"""
