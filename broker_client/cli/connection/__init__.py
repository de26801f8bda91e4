"""`mesh connection …` and `mesh do`."""
