"""The messages, one module per conversation.

Each message is a map with named fields on the wire. New fields have defaults, unknown fields are
skipped, and each type has a golden file, so that the bytes of earlier versions stay readable.
"""
