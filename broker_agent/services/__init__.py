"""The loops of the agent: thin, they act on what core decided."""
