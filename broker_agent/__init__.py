"""The process on a host that runs tasks."""
