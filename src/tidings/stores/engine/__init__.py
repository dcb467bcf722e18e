"""Engines of both databases: connections, transactions, error mapping and field encryption."""
