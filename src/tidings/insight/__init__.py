"""Why, and why not.

Takes: what was recorded about a notification and a user.
Gives: a verdict and sentences a person understands at three in the morning.
Never: changes anything, shows more of a user than the id.
"""
