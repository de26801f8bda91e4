"""Rules of the tree itself: locks, licence, paths and entry points."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from broker_master.core.commands import Attempt, Command
from tests import language
from tests.requirements_policy import require

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
# Built from parts, so that this file does not name what it looks for.
PRIVATE_ROOTS = b"|".join([b"wo" + b"rk", b"ro" + b"ot", b"ho" + b"me/[a-z][a-z0-9_-]*"])
MACHINE_PATHS = re.compile(rb"(?<![\w./<>{}$-])/(?:" + PRIVATE_ROOTS + rb")/")

REGISTRY_HOSTS = re.compile(
    b"|".join([rb"py" + rb"pi\.org", rb"python" + rb"hosted", rb"npm" + rb"js\."])
)


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def requirements(lock: Path) -> list[str]:
    """Logical lines of a lock: continuation lines joined, comments dropped."""
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def tracked_files() -> list[Path]:
    """Files that git tracks or would add; an unpacked release has no git and is skipped."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("the tree is not a git clone: nothing to list")
    listed = subprocess.run(
        # CI may run as another user than the one who cloned; git refuses that unless told.
        [git, "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=30,
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_there_is_one_lock_per_use() -> None:
    assert [lock.name for lock in LOCKS] == ["agent.txt", "dev.txt", "master.txt"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_names_no_index_and_no_path(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "file:" not in text
    assert not re.search(r"[ (]/\w", text), "an absolute path"
    assert not [line for line in text.splitlines() if line.startswith("-")], "an option line"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_requirement_is_exact_and_hashed(lock: Path) -> None:
    lines = requirements(lock)
    assert lines
    loose = [line for line in lines if not re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:", line)]
    assert loose == []


def test_locks_agree_on_every_version_they_share() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for line in requirements(lock):
            name, _, rest = line.partition("==")
            versions.setdefault(name, set()).add(rest.split()[0])
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_agent_lock_carries_no_web_framework() -> None:
    names = {line.partition("==")[0] for line in requirements(ROOT / "requirements" / "agent.txt")}
    assert names.isdisjoint({"litestar", "uvicorn", "jinja2", "uvloop", "aio-pika"})
    assert "nats-py" in names


def test_every_dependency_of_the_project_is_locked() -> None:
    declared = project()
    dependencies = declared["dependencies"]
    assert isinstance(dependencies, list)
    wanted = {re.split(r"[<>=;\[ ]", text)[0] for text in dependencies}
    for lock in LOCKS:
        assert wanted <= {line.partition("==")[0] for line in requirements(lock)}


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if MACHINE_PATHS.search(path.read_bytes())
    ]
    assert found == []


def test_no_file_names_the_host_of_a_package_registry() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if REGISTRY_HOSTS.search(path.read_bytes())
    ]
    assert found == []


def test_machine_path_pattern_finds_what_it_is_for() -> None:
    bad = b"see /" + b"work/main, or '/" + b"root/x' and /" + b"home/ann/x"
    assert len(MACHINE_PATHS.findall(bad)) == 3
    good = b"https://example.org/" + b"work/x <state>/" + b"work/ tests/" + b"root/x"
    assert not MACHINE_PATHS.search(good)


def test_licence_is_the_full_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["license"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("script", "target"),
    [
        ("mesh", "broker_client.cli:main"),
        ("broker-agent", "broker_agent.cli:main"),
        ("broker-master", "broker_master.cli:main"),
    ],
)
def test_console_script_loads(script: str, target: str) -> None:
    assert project()["scripts"] == {
        "mesh": "broker_client.cli:main",
        "broker-agent": "broker_agent.cli:main",
        "broker-master": "broker_master.cli:main",
    }
    installed = [
        entry
        for entry in entry_points(group="console_scripts", name=script)
        if entry.value == target
    ]
    assert installed, "the project is not installed here: make .venv"
    assert callable(installed[0].load())


@pytest.mark.parametrize("package", ["schemas", "broker_client", "broker_agent", "broker_master"])
def test_package_is_imported_from_this_tree(package: str) -> None:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")


def test_importing_schemas_loads_no_nats_and_no_loop() -> None:
    script = "import sys, schemas; print(sorted({'nats', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=30
    )
    assert done.stdout.decode().strip() == "[]"


def test_required_program_is_found_beside_the_interpreter_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for folder in (near, far):
        folder.mkdir()
        (folder / "some-server").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(near / "python"))
    monkeypatch.setenv("PATH", str(far))
    assert require("some-server", "apt install some-server") == str(near / "some-server")
    (near / "some-server").unlink()
    assert require("some-server", "apt install some-server") == str(far / "some-server")


def test_missing_program_skips_on_a_laptop_and_fails_on_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt install no-such-server"):
        require("no-such-server", "apt install no-such-server")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt install no-such-server"):
        require("no-such-server", "apt install no-such-server")


def test_each_threat_and_each_trusted_one_has_one_row() -> None:
    """Two rows of one name promise two things."""
    text = (ROOT / "docs" / "security.md").read_text()
    trust, threats = text.split("## Threats", 1)
    numbers = re.findall(r"^\| (S\d+) \|", threats, re.MULTILINE)
    assert numbers == sorted(set(numbers), key=lambda each: int(each[1:]))
    names = re.findall(r"^\| ([a-zA-Z' ]+) \|", trust.split("## When")[0], re.MULTILINE)
    assert len(names) == len(set(names))


COMMAND_FIELDS = {*Command.__struct_fields__, *Attempt.__struct_fields__}
# What moves a command: for the core alone, which looks into the table of moves first.
MOVERS = {"enter"}
CHANGERS = {"append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}
# Fields of the same name in other structures: file, and the object whose field it is.
NAMESAKES = {("services/probe.py", "asked.sent")}


def state_writes(path: Path, name: str) -> list[str]:
    """Where a module assigns to, or changes in place, a field of a command or of an attempt."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
            targets = [node.target]
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in ("setattr", "delattr"):
                found.append(f"{name}:{node.lineno}: {called.id}")
            if isinstance(called, ast.Attribute) and called.attr in MOVERS:
                found.append(f"{name}:{node.lineno}: {ast.unparse(called)}")
            if isinstance(called, ast.Attribute) and called.attr in CHANGERS:
                targets = [called.value]
        for target in targets:
            found += [
                f"{name}:{target.lineno}: {ast.unparse(field)}"
                for field in _written(target)
                if _is_command_field(field) and (name, ast.unparse(field)) not in NAMESAKES
            ]
    return found


def _written(target: ast.expr) -> list[ast.expr]:
    """Return what an assignment changes: not the keys by which it is found."""
    match target:
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return [each for part in parts for each in _written(part)]
        case ast.Starred(value=inner) | ast.Subscript(value=inner):
            return _written(inner)
        case ast.Attribute(value=inner):
            return [target, *_written(inner)]
    return []


def _is_command_field(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute) or node.attr not in COMMAND_FIELDS:
        return False
    # An object's own field, and the store of facts.
    return ast.unparse(node) not in (f"self.{node.attr}", "plane.facts", "self._plane.facts")


def test_only_the_core_writes_the_state_of_commands() -> None:
    """Services do what `core/attempts.py` decides; none writes a field of a command or attempt."""
    master = ROOT / "broker_master"
    found: list[str] = []
    for folder in ("services", "api", "metrics", "store", "console", "backup"):
        for path in sorted((master / folder).rglob("*.py")):
            found += state_writes(path, str(path.relative_to(master)))
    for path in sorted(master.glob("*.py")):
        found += state_writes(path, path.name)
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "attempt.state = state",
        "attempt.sent += 1",
        "attempt.hidden, attempt.sent = None, 1",
        "command.facts['a'] = 1",
        "command.facts.update(a=1)",
        "command.attempts.pop()",
        "del command.attempts[0]",
        "found[0].reason = ''",
        "for command.phase in phases: pass",
        "setattr(command, 'state', state)",
        "command.enter(event, at)",
    ],
)
def test_check_of_the_state_of_commands_finds_each_way_to_write_it(
    tmp_path: Path, line: str
) -> None:
    module = tmp_path / "module.py"
    module.write_text(line)
    assert state_writes(module, "module.py")
    module.write_text("asked.state\nself.state = 1\nqueue.append(command)\ncommand.find(1)\n")
    assert state_writes(module, "module.py") == []


JUDGES_TIME = re.compile(
    r"assert [^\n]*(?:monotonic|perf_counter|process_time|thread_time|\.time)\(\) - [^\n]*?<"
)


def test_no_test_judges_absolute_time() -> None:
    """A slow machine is no fault: budgets are ratios within one process, counts or bytes."""
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in tracked_files()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")
        for line in JUDGES_TIME.findall(path.read_text())
    ]
    assert found == []
    assert JUDGES_TIME.search("assert time.monotonic() " + "- began < 3")


# A wait for what must come about, of less than half a minute; waits below a second are for what
# must not come.
SHORT_WAIT = re.compile(
    r"(?:within_s=|(?<!\{waiting\}, )\btimeout=|asyncio\.timeout\(|eventually\(lambda: [^,()]*, )"
    r"(?:[1-9]|[12][0-9])(?:\.[0-9]+)?[,)]"
)
TRUE_TIME = ("tests/chaos", "tests/bench", "tests/test_house.py", "tests/conftest.py")


def test_waits_of_tests_are_long_enough_for_a_slow_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in swept(".py")
        if path.is_relative_to(ROOT / "tests")
        and not any(path.is_relative_to(ROOT / part) for part in TRUE_TIME)
        for line in path.read_text().splitlines()
        if SHORT_WAIT.search(line)
    ]
    assert found == []
    assert SHORT_WAIT.search("wait(within_s=" + "5.0)")
    assert SHORT_WAIT.search("await eventually(lambda: x, " + "5)")
    assert not SHORT_WAIT.search("next_msg(timeout=" + "0.2)")


# The factory, and two modules that need another release or a folder of their own.
MESH_MAKERS = {
    "tests/integration/test_old_release.py",
    "tests/integration/test_sec_tasks.py",
    "tests/unit/broker_master/conftest.py",
}


def test_modules_make_their_mesh_by_one_factory() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in swept(".py")
        if re.search(r"^(?:async )?def mesh\(", path.read_text(), re.MULTILINE)
    }
    assert found == MESH_MAKERS


# Folders and pages that keep the language of docs/contributing.md.
SWEPT = (
    "CHANGELOG.md",
    "README.md",
    "broker_agent",
    "broker_client",
    "broker_master",
    "docs",
    "grafana",
    "schemas",
    "tests",
    "tools",
)
# On the main line since before they were checked, and history is not written again.
LONG_SUBJECTS = {
    "ff332e5": "62 characters",
    "0334cc5": "61 characters",
    "cb72f9b": "61 characters",
    "cdf7283": "62 characters",
    "d37cecc": "61 characters",
}
FIRST_CHECKED = "17467f5"


def swept(suffix: str) -> list[Path]:
    return [
        path
        for path in tracked_files()
        if path.suffix == suffix and any(path.is_relative_to(ROOT / part) for part in SWEPT)
    ]


def test_docstrings_begin_with_subject_and_verb() -> None:
    found = [
        f"{path}:{each}" for path in swept(".py") for each in language.riddles(path.read_text())
    ]
    assert found == []


def test_names_of_tests_are_claims_with_a_subject() -> None:
    found = [
        f"{path}:{each}"
        for path in swept(".py")
        for each in language.riddles_in_names(path.read_text())
    ]
    assert found == []
    for name in ("what_is_lost_is_told", "sec_s01_nobody_listens", "it_ends"):
        assert language.riddles_in_names(f"def test_{name}(): pass") == [f"1: test_{name}"]
    assert language.riddles_in_names("def test_items_are_kept(): pass\ndef what(): pass") == []


NAMED_TEST = re.compile(r"\btest_\w*[a-z]\b(?!\.py)")


def test_pages_name_tests_that_are_there() -> None:
    defined = {
        name
        for path in swept(".py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    files = {path.stem for path in swept(".py")}
    named = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in swept(".md")
        for name in NAMED_TEST.findall(path.read_text())
        if name not in defined | files | {"test_path"}  # a setting of the kind `http`
    }
    assert named == set()
    assert NAMED_TEST.findall("`test_a_b`, `tests/test_c.py`, `test_sec_sNN_…`") == ["test_a_b"]


def test_docstrings_comments_and_pages_have_no_private_words() -> None:
    found = [
        f"{path}:{each}"
        for path in swept(".py")
        if path != ROOT / "tests" / "language.py"
        for each in language.private_words(path.read_text())
    ]
    found += [
        f"{path}:{each}"
        for path in swept(".md")
        for each in [
            *language.private_words_of_page(path.read_text()),
            *language.riddles_in_items(path.read_text()),
        ]
    ]
    assert found == []
    assert language.riddles_in_items("- What is lost\n* Nobody\n- A fact\n") == [
        "1: What",
        "2: Nobody",
    ]


def test_commit_subjects_are_short_and_begin_with_a_noun() -> None:
    subjects = language.subjects_since(ROOT, FIRST_CHECKED)
    if subjects is None:
        pytest.skip("no git, or a shallow clone: no subjects to read")
    found = {
        f"{commit[:7]} {subject}": faults
        for commit, subject in subjects.items()
        if (faults := language.subject_faults(subject)) and commit[:7] not in LONG_SUBJECTS
    }
    assert found == {}


@pytest.mark.parametrize(
    ("line", "is_riddle"),
    [
        ("What the master keeps.", True),
        ("Whom a broker believes.", True),
        ("All that is known.", True),
        ("Has accepted attempts run.", True),
        ("It ends.", True),
        ("All agents of a group.", False),
        ("Items of a list.", False),
        ("Whether an agent drains.", False),
        ("Runs accepted attempts.", False),
    ],
)
def test_check_of_first_lines_finds_riddles_alone(line: str, is_riddle: bool) -> None:
    source = f'class Attempt:\n    sent: int\n    """{line}\n\n    What follows is free."""\n'
    assert bool(language.riddles(source)) is is_riddle


def test_check_of_words_finds_them_in_docstrings_and_comments_alone() -> None:
    word = "how-" + "manieth"
    assert language.private_words(f'"""The {word} try."""\n# the {word}\ntext = "{word}"\n') == [
        f"1: {word}",
        f"2: {word}",
    ]
    assert language.private_words('"""An agent that was never set' + ' up."""\n') == []
    assert language.private_words_of_page(f"Of the\n{word} try") == [f"2: {word}"]
    assert language.private_words_of_page(f"The field `{word}`") == []


def test_check_of_subjects_finds_each_fault() -> None:
    assert language.subject_faults("Runs of tasks end with their lease") == []
    assert language.subject_faults("Nobody waits.") == ["begins with Nobody", "full stop"]
    assert language.subject_faults("A" * 61) == ["61 characters"]


def test_glossary_names_places_that_are_there() -> None:
    text = (ROOT / "docs" / "contributing.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (`[^|]+) \|$", text, re.MULTILINE)
    assert len(rows) >= 40
    assert [term for term, _ in rows] == sorted(term for term, _ in rows)
    places = {place for _, named in rows for place in re.findall(r"`([^`]+)`", named)}
    assert sorted(place for place in places if not (ROOT / place).exists()) == []
