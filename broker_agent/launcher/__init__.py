"""The launcher: a small process from which tasks begin, where the agent must not be their model.

It has what a task is to find: its umask, its place in the scheduler, no raised limits and no open
files. Each program begins as a copy of it, born inside its control group where there are any, and
becomes the user that tasks run as before it is loaded. The agent is its parent all the same.
"""
