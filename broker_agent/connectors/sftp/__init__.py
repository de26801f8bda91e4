"""The kind `sftp`: files of an SFTP server below one base."""

from broker_agent.connectors.sftp.connector import CONNECTOR

__all__ = ["CONNECTOR"]
