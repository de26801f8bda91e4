"""Decisions of the agent: an event and a time go in, decisions come out; nothing is awaited."""
