"""Stage digest: closes digests that are due into notifications.

Takes: open digests and their items. Gives: one notification per digest, or a recorded reason. Never: collects, sends.
"""
