"""Warnings of clients' certificates are told to the operator who lists them."""

import pytest

from broker_client.cli.client.manage import _tell_warnings
from schemas.messages.api import CertificateRecord, ClientRecord


def client(name: str, warning: str) -> ClientRecord:
    certificate = CertificateRecord(
        serial="s", not_after="2026-01-01T00:00:00.000Z", days_left=80, warning=warning
    )
    return ClientRecord(
        client=name, role="operator", groups=[], certificate=certificate, created_at=""
    )


def test_client_that_does_not_renew_is_named_beside_the_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clients = [client("ann", ""), client("bob", "not renewed by its client"), client("eve", "")]
    _tell_warnings(clients, is_text=True)
    assert capsys.readouterr().err == "mesh: bob: certificate not renewed by its client\n"
    _tell_warnings(clients, is_text=False)
    assert capsys.readouterr().err == ""
