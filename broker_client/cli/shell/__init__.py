"""Completion, and the command line of `broker-agent` and `broker-master`."""
