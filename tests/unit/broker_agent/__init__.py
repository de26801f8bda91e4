"""Tests of the agent without a broker."""
