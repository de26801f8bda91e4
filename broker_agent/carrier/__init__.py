"""The carrier: a small process that brings what programs print from their pipes into files.

It outlives the agent, so that a program never loses its reader. It loads nothing but a little of
the standard library, like the warden.
"""
