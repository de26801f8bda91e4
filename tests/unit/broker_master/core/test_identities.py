from collections.abc import Collection

import pytest

from broker_master.core.identities import Finding, IssuedIdentities, Shown
from schemas.messages.registry import AgentEntry, CertificateEntry, ClientEntry, TokenEntry


def certificate(name: str, *, fingerprint: str = "") -> CertificateEntry:
    return CertificateEntry(
        serial=f"s-{name}", not_after=9.0, user_nkey=f"U-{name}", fingerprint=fingerprint
    )


AGENTS = {
    "web-1": AgentEntry(
        name="web-1",
        group="web",
        created_at=1.0,
        certificates=[certificate("web-1", fingerprint="f-web-1"), certificate("web-1-next")],
    ),
    "new-1": AgentEntry(
        name="new-1",
        group="web",
        created_at=1.0,
        token=TokenEntry(hash="h", expires_at=9.0, user="U-token"),
    ),
}
CLIENTS = {
    "ann": ClientEntry(
        name="ann",
        role="admin",
        created_at=1.0,
        certificates=[certificate("ann", fingerprint="f-ann")],
    )
}
KNOWN = IssuedIdentities(AGENTS, CLIENTS, {"U-master": "master"})


def judged(
    *shown: str, refused: Collection[str] = (), just_refused: Collection[str] = ()
) -> Finding | None:
    return KNOWN.judge(Shown(*shown), refused, just_refused)


@pytest.mark.parametrize(
    "shown",
    [
        ("U-web-1", "web-1", "f-web-1", "CN=web-1"),
        ("U-web-1-next", "web-1", "f-web-1", "CN=web-1"),
        ("U-web-1-next", "web-1", "f-unknown", "CN=web-1"),
        ("U-ann", "ann", "f-ann", "CN=ann"),
        ("U-ann", "ann"),
        ("U-token", "new-1", "f-token", "CN=new-1"),
        ("U-master", "master", "f-master", "CN=master"),
    ],
)
def test_connection_with_its_issued_certificate_is_left_alone(shown: tuple[str, ...]) -> None:
    assert judged(*shown) is None


@pytest.mark.parametrize(
    ("shown", "kind", "kick"),
    [
        (("U-web-1", "web-1", "f-ann", "CN=ann"), "mismatch", True),
        (("U-web-1", "web-1", "f-unknown", "CN=ann"), "mismatch", True),
        (("U-web-1", "ann", "", ""), "mismatch", True),
        (("U-stolen", "web-1", "f-web-1", "CN=web-1"), "unregistered", True),
        (("U-stolen", "web-1", "f-unknown", "CN=web-1"), "unregistered", False),
        (("U-stolen", "ghost", "", ""), "unregistered", False),
    ],
)
def test_token_beside_another_certificate_is_found(
    shown: tuple[str, ...], kind: str, kick: bool
) -> None:
    finding = judged(*shown)
    assert finding is not None
    assert (finding.kind, finding.kick) == (kind, kick)
    assert shown[1] in finding.reason


def test_a_revoked_key_that_is_connected_is_cut() -> None:
    finding = judged("U-web-1", "web-1", "f-web-1", "CN=web-1", refused={"U-web-1"})
    assert finding is not None
    assert (finding.kind, finding.kick, finding.is_news) == ("revoked", True, True)


def test_a_key_that_was_revoked_a_moment_ago_is_cut_and_is_no_alarm() -> None:
    """A revocation raises no alarm, unless the connection stays."""
    keys = {"U-web-1"}
    finding = judged("U-web-1", "web-1", "f-web-1", "CN=web-1", refused=keys, just_refused=keys)
    assert finding is not None
    assert (finding.kind, finding.kick, finding.is_news) == ("revoked", True, False)
