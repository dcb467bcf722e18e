"""Protocols the flow is written against. Adapters implement them; `tidings.runtime` picks the adapters."""
