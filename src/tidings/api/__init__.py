"""The HTTP API.

Takes: requests of servers (API keys) and browsers (user tokens).
Gives: calls of the pipeline and the store; JSON responses and problem documents.
Never: decides who is notified, connects to a push service or another server.
"""
