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
    views = Views(plane, lambda _: "", lambda _: [])
    together = views.groups(["db", "empty", "web"])
    assert together == [views.group(name) for name in ("db", "empty", "web")]
    assert [sum(group.agents.values()) for group in together] == [2, 0, 2]
    assert together[0].agents["awaiting_setup"] >= 1
    assert together[1].reason == "no agents"


def test_running_is_counted_from_the_book_not_from_the_last_beat() -> None:
    plane = make_plane(FakeClock())
    add_group(plane, "web")
    entry = add_agent(plane, "web-1", "web")
    connect(plane, "web-1")  # its beat says 3
    plane.dispatcher.set_member("web", "web-1", slots=8, ready=True)
    assert Views(plane, lambda _: "", lambda _: []).agent(entry).running == 0
    plane.dispatcher.take("web-1")
    assert Views(plane, lambda _: "", lambda _: []).agent(entry).running == 1
