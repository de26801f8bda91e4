"""Runtime of every process: link to NATS, settings, logs, clock, supervision, files."""
