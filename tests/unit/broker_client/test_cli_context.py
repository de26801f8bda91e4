"""Which context is meant, and what is wrong with one."""

from pathlib import Path

import pytest

from broker_client.cli.client.contexts import CONTEXTS, ContextRecord
from broker_client.context import Context, find_context, load_context, names_of, use
from broker_client.runtime.context import write_context_urls
from schemas.faults import MeshError

GOOD = 'name = "ann"\nrole = "operator"\nmesh = "m1"\nurls = ["tls://broker.example:4222"]\n'


def written(path: Path, text: str = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_paths_in_it_are_relative_to_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "ann" / "context.toml")
    assert load_context(str(path), {}) == Context(
        name="ann",
        role="operator",
        mesh="m1",
        urls=("tls://broker.example:4222",),
        ca=str(tmp_path / "ann" / "ca.pem"),
        cert=str(tmp_path / "ann" / "cert.pem"),
        key=str(tmp_path / "ann" / "key.pem"),
        creds=str(tmp_path / "ann" / "user.creds"),
        file=str(path),
    )


@pytest.mark.parametrize(
    "urls",
    [
        'urls = ["tls://[::1]:4222"]',
        "urls=[ \"tls://a:1\",\n  # the old one ]\n  'tls://b:1',\n]",
        "urls = []",
    ],
)
def test_addresses_change_and_nothing_else_in_the_file_does(tmp_path: Path, urls: str) -> None:
    path = written(tmp_path / "real.toml", f'# mine\nname = "ann" # me\n{urls}\nca = "x"\n')
    path.chmod(0o600)
    link = tmp_path / "context.toml"
    link.symlink_to("real.toml")
    write_context_urls(link, ["tls://new:4222", "tls://b:1"])
    wanted = '# mine\nname = "ann" # me\nurls = ["tls://new:4222", "tls://b:1"]\nca = "x"\n'
    assert path.read_text() == wanted
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_whose_addresses_are_written_in_another_way_stays(tmp_path: Path) -> None:
    text = 'name = "ann"\n"urls" = ["""tls://a:1"""]\n'
    path = written(tmp_path / "context.toml", text)
    with pytest.raises(MeshError) as caught:
        write_context_urls(path, ["tls://new:4222"])
    assert caught.value.code == "context_invalid"
    assert path.read_text() == text


def test_flag_wins_over_environment_and_environment_over_default(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    contexts = tmp_path / "mesh" / "contexts"
    written(contexts / "default.toml")
    assert find_context(None, environ) == contexts / "default.toml"
    environ["MESH_CONTEXT"] = "ops"
    assert find_context(None, environ) == contexts / "ops.toml"
    assert find_context("dev", environ) == contexts / "dev.toml"


def test_file_directory_and_name_are_distinguished(tmp_path: Path) -> None:
    path = written(tmp_path / "ann" / "context.toml")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_context(str(tmp_path / "ann"), environ) == path
    assert find_context(tmp_path / "ann", environ) == path
    assert find_context("some.toml", environ) == Path("some.toml")
    assert find_context("some", environ) == tmp_path / "mesh" / "contexts" / "some.toml"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name = ",
        "\x00",
        GOOD.replace('"ann"', "7"),
        GOOD.replace('"ann"', '"../ann"'),
        GOOD.replace('name = "ann"', ""),
        GOOD.replace("urls = [", "urls = [1, "),
        GOOD.replace('"tls://broker.example:4222"', ""),
        GOOD.replace("tls://", "http://"),
    ],
)
def test_context_of_no_use_is_named(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "c.toml", text)
    with pytest.raises(MeshError) as caught:
        load_context(str(path), {})
    assert caught.value.code == "context_invalid"
    assert caught.value.kind.exit_code == 78
    assert str(path) in caught.value.message


def test_context_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(MeshError) as caught:
        load_context(path, {})
    assert caught.value.code == "context_invalid"


@pytest.mark.parametrize("given", ["missing.toml", "./missing", "nobody", "No Name", None])
def test_missing_context_says_which(tmp_path: Path, given: str | None) -> None:
    with pytest.raises(MeshError) as caught:
        load_context(given, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert caught.value.code == "context_invalid"


def test_unreadable_context_is_a_fault_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "c.toml")

    def refused(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    # Root may read everything, and tests run as root in containers.
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(MeshError) as caught:
        load_context(path, {})
    assert caught.value.code == "state_unreadable"


def test_context_that_is_a_directory_without_one_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(MeshError) as caught:
        load_context(tmp_path, {})
    assert caught.value.code == "context_invalid"


def test_context_in_use_goes_before_the_default_and_behind_the_variable(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    contexts = tmp_path / "mesh" / "contexts"
    for name in ("default", "ops", "dev"):
        written(contexts / f"{name}.toml")
    assert use("ops", environ) == contexts / "ops.toml"
    assert find_context(None, environ) == contexts / "ops.toml"
    assert find_context(None, {**environ, "MESH_CONTEXT": "dev"}) == contexts / "dev.toml"
    assert names_of(environ) == [contexts / f"{name}.toml" for name in ("default", "dev", "ops")]


def test_folder_of_a_client_can_be_in_use_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "ann" / "context.toml")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    monkeypatch.chdir(tmp_path)
    use("./ann", environ)
    monkeypatch.chdir("/")
    assert load_context(None, environ).key == str(path.parent / "key.pem")


def test_context_that_cannot_be_used_leaves_the_one_in_use(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    written(tmp_path / "mesh" / "contexts" / "ops.toml")
    use("ops", environ)
    written(tmp_path / "mesh" / "contexts" / "bad.toml", "name = ")
    for name in ("bad", "nobody"):
        with pytest.raises(MeshError) as caught:
            use(name, environ)
        assert caught.value.code == "context_invalid"
    assert find_context(None, environ).stem == "ops"
    (tmp_path / "mesh" / "contexts" / "ops.toml").unlink()
    with pytest.raises(MeshError, match="there is no context at"):
        load_context(None, environ)


def test_folder_of_the_name_is_used_where_no_context_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    folder = written(tmp_path / "ann" / "context.toml")
    assert use("ann", environ) == folder
    assert find_context(None, environ) == folder
    with pytest.raises(MeshError, match=r"for the folder of that name here, give \./ann"):
        load_context("ann", environ)
    named = written(tmp_path / "config" / "mesh" / "contexts" / "ann.toml")
    assert use("ann", environ) == named, "a context of the name goes before a folder"
    assert use("./ann", environ) == Path("ann/context.toml")


@pytest.mark.parametrize("width", [80, 120])
def test_list_of_contexts_leaves_nothing_out(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    records = [
        ContextRecord(
            name="/srv/ann/a-folder/of-a-rather-long-name/context.toml",
            current=True,
            client="deploy-robot",
            role="operator",
            urls=["tls://broker-1.example.net:4222", "tls://broker-2.example.net:4222"],
        ),
        ContextRecord(name="old", current=False, fault="there is no context at /srv/ann/old.toml"),
    ]
    table = CONTEXTS.table(records)
    assert table.hidden == []
    assert max(map(len, table.lines)) <= width
    assert "operator" in table.lines[1]
