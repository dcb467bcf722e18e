"""How often the garbage collector looks through a process that lives long."""

import gc

#: objects made and not freed until the youngest are looked through; Python's own 700 are reached every few messages
YOUNG = 10_000


def settle() -> None:
    """Set aside what the start made, which stays for ever: looking through it stops everything for 100 ms.

    A full collection came every few seconds under load, and everything waited for it. Call this once, when the process
    is about to begin its work.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
