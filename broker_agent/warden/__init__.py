"""The second guard: a small process that ends tasks when the agent cannot.

It loads nothing but the standard library, and little of that: it is there for the day when all else
has failed, and costs 10 MiB and no time on all others.
"""
