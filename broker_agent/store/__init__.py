"""What the agent keeps on its disk: journal, spool and identity slots."""
