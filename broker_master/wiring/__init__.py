"""Connects the parts of a master, each of which gets all that it needs when it is made.

ports ─▶ keys ─▶ work ─▶ operations ─▶ parts: each module needs those before it.
"""
