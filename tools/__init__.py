"""Generators of the pages and files that follow from the code. Nothing here is in the wheel."""
