"""What Prometheus sees of a master."""
