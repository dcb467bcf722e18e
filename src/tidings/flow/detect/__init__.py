"""Hop 2: what differs between two versions of a watched object, and how to say it to people.

Takes: the old and the new version as mappings, and the rules of that kind of object.
Gives: one `Change`, or None; and words for it in the reader's language and time zone.
Never: reads or writes anything, knows an event from an order, or raises over data it is shown.
"""
