"""HTTP requests to the servers of providers and recipients.

Takes: a URL that was checked, headers and a body.
Gives: the response, or why there is none: the request was certainly not processed, or that is unknown.
Never: follows a redirect, uses a proxy, or connects to an address that was not checked.
"""
