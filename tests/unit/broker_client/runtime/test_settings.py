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


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    wait_s: float = 1.0
    keep_days: float = 1.0
    spool_bytes: int = 1
    name: str = ""


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("wait_s", "1h30m", 5400.0),
        ("wait_s", "90", 90.0),
        ("keep_days", "12h", 0.5),
        ("keep_days", "90", 90.0),
        ("spool_bytes", "64KiB", 65_536),
        ("spool_bytes", "10", 10),
        ("name", "5m", "5m"),
    ],
)
def test_times_and_sizes_have_units_wherever_they_are_set(
    tmp_path: Path, key: str, text: str, value: object
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(f'{key} = "{text}"\n')
    in_file = load_settings(Measured, environ={}, file=path)
    in_environment = load_settings(Measured, environ={f"MESH_{key.upper()}": text})
    assert in_file.values[key] == in_environment.values[key] == value


def test_wrong_time_or_size_is_named_with_an_example() -> None:
    environ = {"MESH_WAIT_S": "soon", "MESH_SPOOL_BYTES": "much"}
    with pytest.raises(Refused) as caught:
        load_settings(Measured, environ=environ)
    for part in ("wait_s (environment MESH_WAIT_S): 'soon'", "1h30m", "spool_bytes", "64KiB"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"MESH_SLOTS": "many"},
            "slots (environment MESH_SLOTS): 'many' is not a whole number; give for example 0",
        ),
        ({"MESH_SLOTS": "-1"}, "'-1' is less than 0"),
        ({"MESH_LOUD": "perhaps"}, "'perhaps' is not true or false; give for example false"),
        ({"MESH_TIMERS__BEAT_S": "0"}, "'0' is not more than 0"),
        ({"MESH_TIMERS__BEATS": "1"}, "did you mean MESH_TIMERS__BEAT_S or"),
    ],
)
def test_fault_says_what_is_wrong_in_plain_words_with_an_example(
    environ: dict[str, str], said: str
) -> None:
    with pytest.raises(Refused) as caught:
        load_settings(Example, environ=environ)
    assert said in caught.value.message
    assert "`" not in caught.value.message
