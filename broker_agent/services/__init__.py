"""Services of the agent: thin loops that perform the decisions of `core`."""
