"""Decisions: events and a time go in, decisions come out. No clock, no network, no randomness."""
