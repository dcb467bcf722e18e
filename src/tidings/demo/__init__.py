"""The demo of `tidings serve --demo`: a mock push service, events, and users with tickets and simulated devices.

Takes: a container on an empty or already seeded database.
Gives: the same demo data after every start.
Never: changes rows that it did not create.
"""
