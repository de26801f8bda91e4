"""How commands and faults end a program."""

import json

import pytest
from msgspec import structs

from broker_client.cli.command.story import last_lines
from broker_client.cli.command.timeline import timeline
from broker_client.cli.options import Common
from broker_client.cli.outcomes import MESH_EXITS, exit_code, is_verdict
from broker_client.cli.run.program import conclude, shell_hint
from broker_client.cli.screen.report import print_fault, record_json
from schemas.faults import FAULTS, Refused
from schemas.messages.facts import ArgumentsRecord, AttemptRecord, CommandRecord
from schemas.messages.work import Output
from schemas.states import TERMINAL, State

AT = "2025-11-21T20:00:00.000Z"


def record(state: str, code: int | None = None, reason: str = "") -> CommandRecord:
    attempt = AttemptRecord(
        attempt=1,
        agent="web-1",
        state=state,
        sent=1,
        accepted_at=AT,
        started_at=AT,
        ended_at=AT,
        exit_code=code,
        reason=reason,
        why="least loaded",
    )
    return CommandRecord(
        id="c1",
        group="web",
        agent=None,
        action="process",
        state=state,
        attempts=[attempt],
        submitted_at=AT,
        client="ann",
        reason=reason,
        ended_at=AT,
    )


@pytest.mark.parametrize(
    ("state", "code", "exits"),
    [
        ("succeeded", 0, 0),
        ("failed", 3, 3),
        ("failed", 120, 120),
        ("failed", 137, 137),
        ("failed", -1, 255),
        ("failed", 256, 1),
        ("failed", None, 126),
        ("lost", None, 120),
        ("undeliverable", None, 121),
        ("expired", None, 122),
        ("cancelled", 143, 123),
        ("timed_out", 143, 124),
        ("rejected", None, 125),
        ("killed_fenced", 137, 126),
    ],
)
def test_exit_code_says_how_the_command_ended(state: str, code: int | None, exits: int) -> None:
    assert exit_code(record(state, code)) == exits


def test_failure_of_another_action_has_no_code_of_a_shell() -> None:
    assert exit_code(structs.replace(record("failed"), action="sql")) == 1


def test_every_terminal_state_has_an_exit_code() -> None:
    assert set(MESH_EXITS) == TERMINAL - {State.SUCCEEDED, State.FAILED}
    assert len(set(MESH_EXITS.values())) == len(MESH_EXITS)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_fault_is_one_line_with_advice_below_and_its_own_exit_code(
    code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exits = print_fault(Refused(code, "what\nand which"), "table")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"mesh: what\\nand which ({code})\n  {FAULTS[code].advice}\n"
    assert exits == FAULTS[code].exit_code
    assert exits in {1, 2, 3, 4, 6, 7, 75, 77, 78}


def test_fault_as_json_is_one_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_fault(Refused("group_unknown", "no group x"), "json")
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {
        "code": "group_unknown",
        "message": "no group x",
        "retry": "never",
        "advice": FAULTS["group_unknown"].advice,
    }


def test_program_that_failed_by_itself_needs_no_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert conclude(record("failed", 3), Common()) == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("state", sorted(MESH_EXITS))
def test_verdict_of_the_mesh_is_explained(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert conclude(record(state, reason="because"), Common()) == MESH_EXITS[state]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == f"mesh: command c1: because ({state})"


def test_program_that_could_not_be_started_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert conclude(record("failed", 127, "cannot run x"), Common()) == 127
    assert "cannot run x" in capsys.readouterr().err


def test_json_record_has_every_field_of_its_output() -> None:
    fields = record_json(record("succeeded", 0), Output(stdout=b"a"))
    assert fields["output"] == {"stdout": b"a", "stderr": b"", "truncated": False}
    assert record_json(record("succeeded", 0))["output"] is None


def test_timeline_shows_each_event_once_and_keeps_reasons_apart() -> None:
    times = len("2025-11-21 20:00:00 +0000 (20:00:00 UTC)  ")
    texts = [line[times:] for line in timeline(record("failed", 3), 120)]
    assert texts == [
        "submitted by ann",
        "attempt 1 sent to web-1 once (least loaded)",
        "attempt 1 accepted by web-1",
        "attempt 1 started",
        "attempt 1 failed, exit code 3",
        "command failed",
    ]


@pytest.mark.parametrize(
    ("argv", "code", "hint"),
    [
        (["df -h | tail -3"], 127, "sh -c 'df -h | tail -3'"),
        (["df -h | tail -3"], 1, ""),
        (["df"], 127, ""),
        (["df", "a | b"], 127, ""),
    ],
)
def test_line_of_a_shell_given_as_one_program_gets_a_hint(
    argv: list[str], code: int | None, hint: str
) -> None:
    failed = structs.replace(record(State.FAILED, code), reason="cannot run df")
    found = structs.replace(failed, arguments=ArgumentsRecord(argv=argv))
    said = shell_hint(found)
    assert said.endswith(hint)
    assert bool(said) == bool(hint)
    assert shell_hint(structs.replace(found, reason="stderr: df: not found")) == ""


def test_end_of_the_output_stands_below_the_record_and_steers_no_terminal() -> None:
    output = Output(stdout=b"".join(b"line %d\n" % n for n in range(7)), stderr=b"\x1b[2Jno disk\n")
    said = last_lines(structs.replace(record(State.FAILED, 1), output=output))
    assert said[1] == "last of stdout, 2 before: mesh command logs c1"
    assert said[2:7] == [f"  line {n}" for n in range(2, 7)]
    assert said[8] == "last of stderr"
    assert "no disk" in said[9]
    assert "\x1b" not in said[9]
    assert last_lines(record(State.FAILED, 1)) == []


def test_own_line_of_a_program_is_not_said_again_and_that_it_could_not_start_is() -> None:
    own = structs.replace(record(State.FAILED, 3), reason="stderr: no disk")
    assert not is_verdict(own)
    assert is_verdict(structs.replace(own, reason="ended by signal 9"))
    assert is_verdict(record(State.FAILED, None))


@pytest.mark.parametrize(
    ("started_at", "advice"),
    [(AT, "its output until then: `mesh command logs c1`"), (None, "it never ran")],
)
def test_cancelled_command_has_output_to_look_at_only_if_it_ran(
    capsys: pytest.CaptureFixture[str], started_at: str | None, advice: str
) -> None:
    ended = record("cancelled", reason="cancelled by ann")
    attempts = [structs.replace(each, started_at=started_at) for each in ended.attempts]
    assert conclude(structs.replace(ended, attempts=attempts), Common()) == 123
    assert capsys.readouterr().err == (
        f"mesh: command c1: cancelled by ann (cancelled)\n  {advice}\n"
    )
