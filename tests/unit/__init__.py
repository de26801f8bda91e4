"""Tests without a socket, a process or a sleep; the folders mirror the packages."""
