"""Decisions of the agent as pure functions of events and times; nothing is awaited."""
