"""A proxy that the environment names is said to be unused, without what it may hold."""

import pytest

from broker_client.cli.doctor import way
from broker_client.cli.doctor.findings import Findings
from broker_client.runtime.proxies import unused_proxies


def test_variables_are_named_as_they_are_written() -> None:
    assert unused_proxies({}) == ""
    assert unused_proxies({"HTTPS_PROXY": "", "http_proxy": "http://p:1"}) == ""
    assert unused_proxies({"all_proxy": "socks5://p:1", "HTTPS_PROXY": "x"}) == (
        "HTTPS_PROXY, all_proxy"
    )


def test_doctor_says_that_the_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:secret@proxy.example.net:3128")
    findings = Findings()
    way.reached(findings, [], None, 1.0)
    (found,) = [finding for finding in findings if finding.check == "proxy"]
    assert (found.state, found.found) == ("warning", "HTTPS_PROXY is set, and not used")
    assert "secret" not in str(findings)
    monkeypatch.delenv("HTTPS_PROXY")
    findings = Findings()
    way.reached(findings, [], None, 1.0)
    assert "proxy" not in [finding.check for finding in findings]
