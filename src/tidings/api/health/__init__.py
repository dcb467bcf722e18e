"""Health checks, and their routes in the API and in workers."""
