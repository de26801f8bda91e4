"""Generators of pages and files from the code; they are not in the wheel."""
