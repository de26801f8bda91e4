"""Groups as users see them: each from its own agents alone, however many there are beside it."""

from broker_master.services.views import Views
from tests.fake_clock import FakeClock
from tests.planes import add_agent, add_group, connect, make_plane


def test_groups_seen_together_are_as_each_seen_alone() -> None:
    plane = make_plane(FakeClock())
    for group, agents in (("web", ["web-1", "web-2"]), ("db", ["db-1"]), ("empty", [])):
        add_group(plane, group)
        for agent in agents:
            add_agent(plane, agent, group)
    add_agent(plane, "db-2", "db", connected=False)
    views = Views(plane)
    together = views.groups(["db", "empty", "web"])
    assert together == [views.group(name) for name in ("db", "empty", "web")]
    assert [sum(group.agents.values()) for group in together] == [2, 0, 2]
    assert together[0].agents["awaiting_setup"] >= 1
    assert together[1].reason == "no agents"


def test_status_in_a_list_is_the_status_of_the_agent() -> None:
    """Lists take the short way to a status, without its words."""
    plane = make_plane(FakeClock())
    add_group(plane, "web")
    entries = [
        add_agent(plane, "web-1", "web"),
        add_agent(plane, "web-2", "web", connected=False),
        add_agent(plane, "web-3", "web", admin="disabled"),
        add_agent(plane, "web-4", "web", admin="revoked"),
    ]
    connect(plane, "web-1")
    connect(plane, "web-3")
    views = Views(plane)
    assert views.status_of(entries[0]) == "active"
    assert [views.status_of(entry) for entry in entries] == [
        views.agent(entry).status for entry in entries
    ]
