"""Accepting over HTTP: group commit, idempotency keys, resumable requests."""
