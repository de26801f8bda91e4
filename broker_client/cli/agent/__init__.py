"""`mesh agent …`."""
