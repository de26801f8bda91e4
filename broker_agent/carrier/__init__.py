"""The carrier: a small process that copies the output of programs from their pipes into files.

The carrier outlives the agent, so that a program never loses its reader. Like the warden, it loads
only a small part of the standard library.
"""
