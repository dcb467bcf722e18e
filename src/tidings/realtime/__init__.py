"""Events of users' feeds on their way to browsers.

Takes: committed changes of feeds.
Gives: the events of one user, in order, to each of its subscribers.
Never: waits for a slow subscriber, or accesses the database.
"""
