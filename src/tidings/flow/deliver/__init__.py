"""Hop 6. Takes: claimed deliveries. Gives: an `Outcome` for each. Never: holds a transaction while sending."""
