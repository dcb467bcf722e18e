"""Template rendering."""
