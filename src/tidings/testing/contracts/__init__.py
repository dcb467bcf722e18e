"""Conformance suites: an adapter is right when a test class made from its suite and a fixture passes."""
