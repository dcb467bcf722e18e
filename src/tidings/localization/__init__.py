"""Locales, time zones and date formats."""
