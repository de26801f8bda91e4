"""Issuers for tests that need no broker."""

import tempfile
import time
from pathlib import Path

from broker_master.ca.accounts import Accounts
from broker_master.ca.authorities import Authorities
from broker_master.ca.issuer import Issuer

MESH = "0123456789abcdef"


def made_issuer(now: int | None = None) -> Issuer:
    """An issuer of a fresh mesh whose files are gone already."""
    at = now or int(time.time())
    with tempfile.TemporaryDirectory() as folder:
        authority = Authorities.create(Path(folder) / "ca", MESH, now=at)
        accounts = Accounts.create(Path(folder), mesh=MESH, now=at)
    return Issuer(authority, accounts, now=lambda: at)
