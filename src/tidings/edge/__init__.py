"""The edge: HTTP, shared by the API and the packs' routes, and jobs that others add. Pydantic stays here.

Takes: bytes of requests, data of jobs, records about to be shown.
Gives: checked frozen bodies, faults in the caller's spelling, answers in camelCase and their description.
Never: reads a store, decides anything, knows a route or a pack.
"""
