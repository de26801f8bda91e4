"""The kind `http`: requests to one HTTP service, below the base URL of the profile."""

from broker_agent.connectors.http.connector import CONNECTOR

__all__ = ["CONNECTOR"]
