"""`mesh ca …` and `mesh certificate …`."""
