"""Backup and restore of a mesh: its files, and the streams of its broker."""
