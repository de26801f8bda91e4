"""`mesh command …` and `mesh deadletter …`."""
