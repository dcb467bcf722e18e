"""Throttling per push host: circuit breaker, adaptive concurrency limit, retry slots."""
