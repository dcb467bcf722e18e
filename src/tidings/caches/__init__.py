"""Caches: takes bytes under keys, gives back what is still fresh, never decides anything and never raises."""
