"""Hooks of e-mail providers: delivered, bounced, complained.

Takes: the call of a provider, with the bytes that it sent.
Gives: events about single recipients, after the call was verified.
Never: accesses the database, or believes a call that is not verified.
"""
