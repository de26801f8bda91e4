"""`mesh run`."""
