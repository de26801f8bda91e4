"""The loops of the master: thin, they act on what core decided."""
