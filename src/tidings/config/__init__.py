"""Settings and their sources, secret files, and the instance lock."""
