"""Hop 7. Takes: outcomes. Gives: final states, attempts, retry times, cleaned-up targets. Never: loses one."""
