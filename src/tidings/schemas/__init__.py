"""Pydantic schemas of requests, responses and jobs, shared by the API, the packs' routes and the job intake.

Takes: request bodies, job data, records to be serialized.
Gives: validated frozen models, validation errors with the caller's field names, camelCase responses.
Never: reads a store, makes decisions, depends on a route or a pack.
"""
