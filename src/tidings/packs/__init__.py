"""Packs: one product domain each, on top of the engine. Registered in the entry-point group `tidings.packs`."""
