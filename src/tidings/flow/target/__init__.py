"""Hop 3. Takes: an `Audience`. Gives: pages of recipients, or an estimate. Never: holds the whole audience."""
