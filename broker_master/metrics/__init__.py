"""Metrics of a master for Prometheus."""
