"""Services of the master: thin loops that perform the decisions of core."""
