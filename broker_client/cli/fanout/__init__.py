"""`mesh fanout …`, and `mesh run` on many agents."""
