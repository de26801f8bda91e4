"""Settings of profiles: parsed, checked, hashed and shown without any file."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import pytest

from broker_agent.connectors.api import ActionSpec, Profile, Secret
from broker_agent.core.lines import line_of, places_in
from broker_agent.core.profile_book import MESSAGE_BYTES, Found, ProfileBook, message
from broker_agent.core.profiles import (
    Checked,
    ProfileProblem,
    UsableProfile,
    check,
    file_fault,
    has_plain,
    parse,
)
from broker_agent.core.references import (
    reference_fault,
    references,
    references_in,
    without_values,
)
from schemas import codec, limits
from schemas.messages.liveness import Profiles


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: str = ""
    token: Secret | None = None


class Tank(Profile, frozen=True):
    host: str
    port: int = 5432
    mode: Literal["read", "write"] = "read"
    password: Secret | None = None
    auth: Auth = Auth()
    statements: dict[str, str] = {}  # noqa: RUF012
    allow: list[str] = []  # noqa: RUF012


class Tanks:
    profile = Tank
    actions: Mapping[str, Any] = {"tank.read": ActionSpec(args=Tank, effect="reads")}

    def check(self, profile: Tank) -> list[str]:
        return ["port: 1 is for tests"] if profile.port == 1 else []


def checked(text: str) -> Checked:
    kind, settings = parse(text)
    return check(settings, Tanks(), places_in(text), kind=kind)


def problem(text: str) -> tuple[int, str]:
    with pytest.raises(ProfileProblem) as found:
        checked(text)
    return found.value.line, found.value.text


GOOD = 'kind = "tank"\nhost = "db.int"\npassword = { plain = "hunter-the-second" }\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('kind = "tank"\nhost = \n', 2, "not TOML"),
        ('kind = "tank"\nhost = "a"\n[auth\n', 3, "not TOML"),
        ('kind = "tank"\nhost = """a\n', 2, "not TOML"),
        ('host = "a"\n', 0, "kind is missing"),
        ('kind = 3\nhost = "a"\n', 1, "kind is missing"),
        ('kind = "tank"\n', 0, "host is missing"),
        ('kind = "tank"\nhost = "a"\n\nport = "b"\n', 4, "port is not a whole number"),
        ('kind = "tank"\nhost = "a"\nprot = 5\n', 3, "has no field 'prot'"),
        ('kind = "tank"\nhost = "a"\nmode = "rw"\n', 3, "mode is none of its values"),
        ('kind = "tank"\nhost = "a"\n[auth]\n# here\nusr = "x"\n', 5, "auth has no field 'usr'"),
        ('kind = "tank"\nhost = "a"\nauth.user = 5\n', 3, "auth.user is not text"),
        ('kind = "tank"\nhost = "a"\nport = 1\n', 3, "port: 1 is for tests"),
        ('kind = "tank"\nhost = "a"\npassword = "x"\n', 3, "no reference to a secret"),
        ('kind = "tank"\nhost = "a"\npassword = {}\n', 3, "names no source"),
        ('kind = "tank"\nhost = "a"\nport = nan\n', 3, "port is too large, or not a number"),
        ('kind = "tank"\nport = 99999999999999999999\n', 2, "port is too large"),
        (f'kind = "tank"\nport = {"9" * 5000}\n', 0, "a number is too long"),
        (f'kind = "tank"\nport = {"[" * 20_000}\n', 0, "nested too deep"),
        (
            'kind = "tank"\nhost = "a"\npassword = { env = "A", file = "/a" }\n',
            3,
            "password names file and env",
        ),
        ('kind = "tank"\nhost = "a"\npassword = { file = "a" }\n', 3, "absolute path"),
        ('kind = "tank"\nhost = "a"\npassword = { command = ["ls"] }\n', 3, "absolute path"),
        ('kind = "tank"\nhost = "a"\npassword = { vault = "kv" }\n', 3, "password.vault"),
        (
            'kind = "tank"\nhost = "a"\n[auth]\ntoken = { credential = "../../x" }\n',
            4,
            "auth.token.credential",
        ),
    ],
)
def test_problem_names_its_line_and_its_setting(text: str, line: int, words: str) -> None:
    found, said = problem(text)
    assert found == line, said
    assert words in said


def test_line_is_none_where_several_fit() -> None:
    places = places_in("[a.x]\nsql = 1\n[a.y]\nsql = 2\n")
    assert line_of(places, ["a", "*", "sql"]) == 0
    assert line_of(places, ["a", "y", "sql"]) == 4
    assert line_of(places_in('a = """\nb = 1\n"""\nb = 2\n'), ["b"]) == 4


def test_hash_is_of_settings_and_not_of_their_writing() -> None:
    lines = GOOD.splitlines()
    same = "\n".join(["port = 5432", *reversed(lines)]) + "  # now\n"
    assert checked(GOOD).hash == checked(same).hash
    for other in (
        GOOD.replace("db.int", "db.ext"),
        GOOD + "port = 5433\n",
        GOOD.replace("plain", "env").replace("hunter-the-second", "PASSWORD"),
    ):
        assert checked(other).hash != checked(GOOD).hash


def test_sec_s38_hash_and_shape_have_no_value_of_a_secret() -> None:
    other = GOOD.replace("hunter-the-second", "another-value")
    assert checked(GOOD).hash == checked(other).hash
    shape = checked(GOOD + 'statements.top = "select 1"\nallow = ["a", "b"]\n').shape
    assert shape == "host=db.int password={plain} statements=[top] allow=[a,b]"
    profile = UsableProfile(name="a", kind="tank", hash="", settings=parse(GOOD)[1], path="")
    assert "hunter" not in repr(profile)
    assert "hunter" not in repr(msgspec.convert(parse(GOOD)[1], Tank))


def test_references_are_found_at_any_depth() -> None:
    text = 'host = "a"\nauth = { token = { env = "T" } }\npassword = { file = "/p", ttl_s = 5 }\n'
    settings = msgspec.toml.decode(text)
    found = references(msgspec.convert(settings, Tank))
    assert {name: each.source for name, each in found.items()} == {
        "password": "file",
        "auth.token": "env",
    }
    assert references_in(settings) == found
    assert reference_fault(Secret(command=["/bin/pass", "show"])) == ""


@pytest.mark.parametrize(
    ("mode", "uid", "plain", "said"),
    [
        (0o600, 0, True, ""),
        (0o644, 1000, False, ""),
        (0o644, 0, True, "chmod 600"),
        (0o640, 0, True, "chmod 600"),
        (0o664, 0, False, "others can write"),
        (0o646, 0, False, "others can write"),
        (0o600, 1001, False, "neither root nor the agent's user"),
    ],
)
def test_sec_s38_owner_and_mode_decide(mode: int, uid: int, plain: bool, said: str) -> None:
    found = file_fault(0o100000 | mode, uid, 1000, has_plain=plain)
    assert said in found
    assert bool(found) == bool(said)


def test_value_in_a_file_is_seen_in_settings_of_any_form() -> None:
    assert has_plain({"a": [{"b": {"plain": "x"}}]})
    assert not has_plain({"plain": {"x": 1}, "b": ["plain"]})


def found_in(name: str, hash_: str = "h1", problem: str = "", path: str = "") -> Found:
    path = path or f"/etc/{name}.toml"
    if problem:
        return Found(name=name, path=path, problem=problem, kind="tank")
    profile = UsableProfile(name=name, kind="tank", hash=hash_, settings={}, path=path)
    return Found(name=name, path=path, kind="tank", profile=profile, checked=Checked(hash=hash_))


def test_last_good_one_stays_until_its_file_is_mended_or_gone() -> None:
    book = ProfileBook().merge([found_in("a")])
    broken = book.merge([found_in("a", problem="/etc/a.toml:3: no")])
    assert broken.find("a").hash == "h1"
    assert [each.problem for each in broken.statuses] == ["/etc/a.toml:3: no"]
    assert broken.digest != book.digest
    assert broken.merge([found_in("a", "h2")]).find("a").hash == "h2"
    assert not broken.merge([]).digest


def test_second_file_of_a_name_does_not_replace_the_first() -> None:
    book = ProfileBook().merge([found_in("a")])
    twice = book.merge([found_in("a", "h2"), found_in("a", "h3", path="/state/a.toml")])
    assert twice.find("a").hash == "h1"
    assert "two files" in twice.statuses[0].problem


def test_message_with_the_largest_profiles_fits() -> None:
    many = []
    for number in range(2 * limits.PROFILES):
        name = f"p{number:03}-" + "x" * 55
        found = found_in(name)
        assert found.checked
        largest = Checked(
            hash="f" * 32,
            shape="s" * limits.SHAPE_LEN,
            actions=[f"tank.action-{each:018}" for each in range(32)],
        )
        many.append(_with(found, largest))
    broken = [found_in(each.name, problem="p" * 5000) for each in many]
    book = ProfileBook().merge(many).merge(broken)
    data = message(book, "i" * 40)
    assert len(data) <= MESSAGE_BYTES
    assert len(codec.decode(Profiles, data).items) == limits.PROFILES


def _with(found: Found, checked: Checked) -> Found:
    return Found(
        name=found.name, path=found.path, kind="tank", profile=found.profile, checked=checked
    )


def test_sec_s38_settings_for_a_check_elsewhere_have_no_value() -> None:
    _, settings = parse(GOOD + 'auth = { token = { plain = "another-value" } }\n')
    told = without_values(settings)
    assert told == {"host": "db.int", "password": {"plain": "-"}, "auth": {"token": {"plain": "-"}}}
    assert check(told, Tanks(), kind="tank") == check(settings, Tanks(), kind="tank")
