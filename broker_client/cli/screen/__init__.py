"""Output on a screen or into a file: tables, reports, live views, streams."""
