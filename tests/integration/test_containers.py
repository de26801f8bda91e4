"""Where brokers of tests run, and that a container is as good as a process."""

from pathlib import Path

import pytest

from broker_client.runtime.stream_config import StreamConfig
from broker_client.runtime.streams import Streams
from tests import servers
from tests.containers import choose, engine_answers
from tests.links import connected
from tests.servers import plain_server
from tests.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("wish", "has_binary", "has_engine", "where"),
    [
        ("auto", True, True, "native"),
        ("auto", True, False, "native"),
        ("auto", False, True, "container"),
        ("auto", False, False, ""),
        ("native", True, True, "native"),
        ("native", False, True, ""),
        ("containers", True, True, "container"),
        ("containers", True, False, ""),
    ],
)
def test_broker_runs_where_it_is_wished(
    wish: str, where: str, *, has_binary: bool, has_engine: bool
) -> None:
    assert choose(wish, has_binary=has_binary, has_engine=has_engine) == where


def test_unknown_wish_is_refused() -> None:
    with pytest.raises(ValueError, match="one of auto, native, containers, not docker"):
        choose("docker", has_binary=True, has_engine=True)


async def test_containers_without_an_engine_fail_and_do_not_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client of the engine, at an address where none listens."""
    monkeypatch.setenv("MESH_TEST_BROKERS", "containers")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / 'nobody.sock'}")
    engine_answers.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="no container engine answers"):
            async with plain_server(tmp_path):
                pass
    finally:
        engine_answers.cache_clear()


async def test_broker_in_a_container_is_killed_frozen_and_started_again_with_its_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine_answers():
        pytest.skip("no container engine answers: docs/contributing.md says how to start one")
    monkeypatch.setenv("MESH_TEST_BROKERS", "auto")
    monkeypatch.setattr(servers, "find_binary", lambda: None)
    async with plain_server(tmp_path) as server, connected(server.url) as link:
        streams = Streams(link)
        await streams.ensure_stream(StreamConfig(name="FACTS", subjects=("fact.>",)))
        await streams.store("fact.1", b"x")
        server.freeze()
        await eventually(lambda: not link.is_connected)
        server.thaw()
        await eventually(lambda: link.is_connected)
        server.kill()
        assert not server.is_running
        await server.start()
        await eventually(lambda: link.is_connected)
        info = await streams.insist(lambda: streams.info("FACTS"))
        assert info.messages == 1
