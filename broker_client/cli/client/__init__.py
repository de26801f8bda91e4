"""`mesh client …`."""
