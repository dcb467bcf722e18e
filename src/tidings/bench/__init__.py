"""`tidings bench`: the benchmark that anybody can run. Real processes, a real database, nothing left out."""
