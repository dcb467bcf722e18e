"""Shared parts of the routes: authentication, rate limits, query parameters, problem details, OpenAPI."""
