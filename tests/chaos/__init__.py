"""Faults on purpose: a mesh of real processes, what happens to it written down, one judge."""
