"""Repositories: the statements on each kind of row, and its mapping to the records of the model."""
