"""Executors: one module for each family of actions."""
