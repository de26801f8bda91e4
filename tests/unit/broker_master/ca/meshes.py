"""Issuers for tests that need no broker."""

import tempfile
import time
from pathlib import Path

from broker_master.ca.accounts import Accounts
from broker_master.ca.authority import Authority
from broker_master.ca.issuer import Issuer

MESH = "0123456789abcdef"


def made_issuer(now: int | None = None) -> Issuer:
    """An issuer of a fresh mesh whose files are gone already."""
    at = now or int(time.time())
    authority = Authority.create(MESH, now=at)
    with tempfile.TemporaryDirectory() as folder:
        accounts = Accounts.create(Path(folder), mesh=MESH, now=at)
    return Issuer(authority, accounts, now=lambda: at)
