"""Protocols that the flow depends on. Adapters implement them; `tidings.container` selects the adapters."""
