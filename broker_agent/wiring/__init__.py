"""Connects the parts of an agent, each of which gets its connections at construction.

ports ─▶ profiles ─▶ work ─▶ contact ─▶ inbound ─▶ parts: each module needs those before it.
"""
