"""Packs: one product domain each, on top of the engine. Found by the entry-point group `tidings.packs`."""
