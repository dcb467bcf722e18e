"""Hop 1. Takes: a request. Gives: a validated `Notification`. Never: writes, or looks anything up."""
