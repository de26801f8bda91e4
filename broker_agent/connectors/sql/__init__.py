"""Common parts of the connectors of databases."""
