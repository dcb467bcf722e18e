"""Stage deliver: claims deliveries under a lease, checks, renders and sends them.

Takes: batch ids. Gives: an outcome for each claimed delivery. Never: holds a transaction while sending.
"""
