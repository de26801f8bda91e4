"""The messages, one module per conversation.

All are maps with named fields on the wire. New fields have defaults, unknown ones are skipped, and
each type has a golden file that keeps yesterday's bytes readable.
"""
