"""Sender processes: the pool, the child process and the protocol between them."""
