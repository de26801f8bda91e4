"""The warden: a second watchdog, a small process that ends tasks when the agent cannot.

The warden loads a small part of the standard library alone, and costs 10 MiB and no CPU time while
the agent is well.
"""
