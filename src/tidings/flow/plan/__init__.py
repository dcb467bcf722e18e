"""Hop 4. Takes: a page of recipients. Gives: a `Planned` delivery or a `Skipped` for each. Never: does I/O."""
