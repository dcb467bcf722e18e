"""What `tidings serve --demo` adds: a mock push service with simulated devices, and people with tickets.

takes: a runtime on an empty or already seeded database · gives: the same demo data after every start ·
never: touches rows it did not make.
"""
