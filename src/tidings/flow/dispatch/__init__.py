"""Hop 5. Takes: committed work. Gives: tasks on the lanes of the queue. Never: decides what the work is."""
