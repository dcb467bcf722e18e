"""Change detection between two versions of a watched object, and formatting of changes for users.

Takes: the old and the new version as mappings, and the change rules for that kind of object.
Gives: one `Change`, or None; and its text in the recipient's language and time zone.
Never: does I/O, depends on a kind of object, or raises for any version.
"""
