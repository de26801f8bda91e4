"""State on the agent's disk: journal, spool and identity slots."""
