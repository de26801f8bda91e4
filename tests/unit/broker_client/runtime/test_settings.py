"""Settings: flag before environment before file before default, and all faults at once."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from broker_client.runtime.settings import load_settings
from schemas.faults import Refused


class Table(msgspec.Struct, frozen=True, kw_only=True):
    beat_s: Annotated[float, Meta(gt=0)] = 5.0
    resends: int = 5


class Example(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "x"
    slots: Annotated[int, Meta(ge=0)] = 0
    loud: bool = False
    urls: tuple[str, ...] = ()
    timers: Table = msgspec.field(default_factory=Table)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('name = "file"\nslots = 1\n[timers]\nbeat_s = 1\nresends = 2\n')
    return path


def test_nearer_source_wins_and_each_value_knows_its_own(file: Path) -> None:
    loaded = load_settings(
        Example,
        environ={"MESH_SLOTS": "3", "MESH_TIMERS__BEAT_S": "0.5", "MESH_LOUD": "true"},
        flags={"slots": 4, "name": None, "urls": ["a", "b"]},
        file=file,
    )
    table = Table(beat_s=0.5, resends=2)
    assert loaded.value == Example(name="file", slots=4, loud=True, urls=("a", "b"), timers=table)
    assert loaded.sources == {
        "name": f"file {file}",
        "slots": "flag --slots",
        "loud": "environment MESH_LOUD",
        "urls": "flag --urls",
        "timers.beat_s": "environment MESH_TIMERS__BEAT_S",
        "timers.resends": f"file {file}",
    }


def test_nothing_given_is_the_default() -> None:
    loaded = load_settings(Example, environ={"MESH_CONTEXT": "x", "HOME": "/"})
    assert loaded.value == Example()
    assert set(loaded.sources.values()) == {"default"}


def test_rendering_without_its_sources_is_a_settings_file(tmp_path: Path) -> None:
    environ = {"MESH_URLS": "a, b", "MESH_TIMERS__BEAT_S": "2.5", "MESH_NAME": 'q"ä'}
    loaded = load_settings(Example, environ=environ)
    path = tmp_path / "again.toml"
    path.write_text(loaded.render())
    assert "timers.beat_s = 2.5" in loaded.render()
    assert load_settings(Example, environ={}, file=path).value == loaded.value


def test_all_faults_are_said_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('nam = "x"\nslots = "many"\n[timers]\nbeat = 1\n')
    with pytest.raises(Refused) as caught:
        load_settings(
            Example,
            environ={"MESH_TIMERS__BEAT_S": "-1", "MESH_TIMERS__BEATS": "1"},
            flags={"loud": "perhaps", "colour": 1},
            file=path,
        )
    assert caught.value.code == "settings_invalid"
    for part in ("'nam'", "slots", "'timers.beat'", "timers.beat_s", "BEATS", "loud", "'colour'"):
        assert part in caught.value.message


def test_file_that_is_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("= =")
    with pytest.raises(Refused, match=r"bad\.toml"):
        load_settings(Example, environ={}, file=path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        load_settings(Example, environ={}, file=tmp_path / "none.toml")
    assert caught.value.code == "state_missing"


def test_check_of_the_whole_is_a_fault_like_others() -> None:
    def check(settings: Example) -> None:
        raise Refused("settings_invalid", f"slots {settings.slots} and resends disagree")

    with pytest.raises(Refused, match="slots 7 and resends disagree"):
        load_settings(Example, environ={"MESH_SLOTS": "7"}, check=check)
