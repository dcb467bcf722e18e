"""Several providers of one channel: which one is asked first, and which one next.

Takes: a message, and the providers with their weights.
Gives: the outcome of the providers that were asked.
Never: asks a second provider after a refusal about the recipient, or after an answer that may mean "sent".
"""
