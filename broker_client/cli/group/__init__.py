"""`mesh group …`."""
