"""Stage record: writes outcomes in bulk.

Takes: outcomes. Gives: final states, attempts, retry times, updated targets. Never: loses an outcome it accepted.
"""
