"""The launcher: a small process that tasks are cloned from, so they inherit nothing of the agent.

It has the umask, priority, limits and descriptors that a task gets. Each program starts as a clone
of the launcher, inside its control group if the host has them, and changes to the user of tasks
before exec. Its parent is the agent.
"""
