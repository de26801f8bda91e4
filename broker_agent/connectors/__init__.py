"""Connectors: what a worker process loads to reach a system behind the host.

`api` is the interface that built-in and foreign connectors have. The agent itself loads no driver.
"""
