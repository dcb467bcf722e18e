"""`tidings bench`: measure the whole path on this machine."""

from cyclopts import App

app = App(name="bench", help="Measure the whole path on this machine.")
