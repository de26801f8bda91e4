import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from schemas.codec import encode, encode_request
from schemas.faults import Refused
from schemas.messages.actions import ACTIONS, NoopArgs, ProcessArgs, decode_args
from tests.unit.schemas.strategies import (
    SCALARS,
    VALUES,
    hostile_bytes,
    messages,
    quick,
    refusal_of,
)

FIELDS = st.sampled_from(["argv", "env", "cwd", "stdin", "timeout_s", "shell"])
TEXTS = st.text(max_size=6)


def code_of(action: str, args: object) -> str:
    with pytest.raises(Refused) as refusal:
        decode_args(action, Raw(encode(args)))
    return refusal.value.code


@quick(200)
@given(messages(ProcessArgs))
def test_valid_arguments_can_be_passed_to_an_operating_system(args: ProcessArgs) -> None:
    texts = [*args.argv, *args.env, *args.env.values(), args.cwd or ""]
    startable = (
        args.argv[0] != ""
        and not any("\0" in text for text in texts)
        and not any(name == "" or "=" in name for name in args.env)
        and not (args.stdin and args.input)
    )
    if startable:
        assert decode_args("process", Raw(encode(args))) == args
    else:
        assert code_of("process", args) == "field_invalid"


@quick(300)
@given(
    st.sampled_from([*ACTIONS, "", "shell"]) | TEXTS,
    st.dictionaries(FIELDS | TEXTS, VALUES, max_size=4).map(encode)
    | hostile_bytes(ProcessArgs)
    | SCALARS.map(encode),
)
def test_any_action_and_any_bytes_give_arguments_or_a_refusal(action: str, raw: bytes) -> None:
    refusal = refusal_of(lambda: decode_args(action, Raw(raw)))
    if refusal is None:
        assert isinstance(decode_args(action, Raw(raw)), ACTIONS[action].args)
        return
    codes = {"action_unknown", "argument_unknown", "field_invalid", "malformed"}
    assert refusal.code in codes
    assert refusal.message.isprintable()


def test_least_arguments() -> None:
    assert decode_args("noop", Raw(b"\x80")) == NoopArgs()
    args = decode_args("process", Raw(encode({"argv": ["true"]})))
    assert args == ProcessArgs(argv=["true"], env={}, cwd=None, stdin=b"", timeout_s=None)


def test_unknown_action_is_named_with_those_there_are() -> None:
    with pytest.raises(
        Refused, match=r"no action 'shell'; there are: .*, noop, process,"
    ) as refusal:
        decode_args("shell", Raw(b"\x80"))
    assert refusal.value.code == "action_unknown"


def test_long_or_hostile_action_is_shown_short_and_escaped() -> None:
    with pytest.raises(Refused) as refusal:
        decode_args("\r\n\x1b" * 10_000, Raw(b"\x80"))
    assert len(refusal.value.message) < 500
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize("action", ACTIONS)
def test_unknown_argument_is_refused_by_its_name(action: str) -> None:
    args = {"argv": ["true"], "tiemout_s": 1} if action == "process" else {"tiemout_s": 1}
    with pytest.raises(Refused, match="tiemout_s") as refusal:
        decode_args(action, Raw(encode(args)))
    assert refusal.value.code == "argument_unknown"


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"argv": []},
        {"argv": [""]},
        {"argv": ["a\0b"]},
        {"argv": "uname -a"},
        {"argv": [b"uname"]},
        {"argv": [1]},
        {"argv": ["a"] * 4097},
        {"argv": ["a" * (128 * 1024 + 1)]},
        {"argv": ["a"], "env": {"": "x"}},
        {"argv": ["a"], "env": {"A=B": "x"}},
        {"argv": ["a"], "env": {"A": "x\0"}},
        {"argv": ["a"], "env": {"A\0": "x"}},
        {"argv": ["a"], "env": {"A": 1}},
        {"argv": ["a"], "env": [["A", "x"]]},
        {"argv": ["a"], "env": {str(n): "" for n in range(1025)}},
        {"argv": ["a"], "cwd": "/x\0"},
        {"argv": ["a"], "cwd": "/" * 4097},
        {"argv": ["a"], "stdin": "text"},
        {"argv": ["a"], "timeout_s": 0},
        {"argv": ["a"], "timeout_s": -1},
        {"argv": ["a"], "timeout_s": float("nan")},
        {"argv": ["a"], "timeout_s": float("inf")},
        {"argv": ["a"], "timeout_s": 30 * 86_400 + 1},
        {"argv": ["a"], "timeout_s": True},
        {"argv": ["a"], "timeout_s": "60"},
        ["argv"],
        None,
        7,
    ],
    ids=lambda args: repr(args)[:40],
)
def test_arguments_out_of_type_or_limits_are_refused(args: object) -> None:
    assert code_of("process", args) == "field_invalid"


@pytest.mark.parametrize(
    "args",
    [
        ProcessArgs(argv=["echo", "x" * (128 * 1024)]),
        ProcessArgs(argv=["echo", "é" * (64 * 1024)]),
    ],
)
def test_argument_that_no_kernel_starts_is_refused_with_the_name_of_the_limit(
    args: ProcessArgs,
) -> None:
    with pytest.raises(Refused, match=r"argv\[1\] is longer than 131071 bytes.*MAX_ARG_STRLEN"):
        decode_args("process", Raw(encode(args)))


def test_longest_argument_passes() -> None:
    args = ProcessArgs(argv=["echo", "x" * (128 * 1024 - 1)])
    assert decode_args("process", Raw(encode(args))) == args


@pytest.mark.parametrize(
    ("args", "where"),
    [
        (ProcessArgs(argv=["ls", "caf\udce9"]), r"argv\[1\]"),
        (ProcessArgs(argv=["ls"], cwd="/\udcff"), "cwd"),
        (ProcessArgs(argv=["ls"], env={"A": "\udcff"}), r"env\[A\]"),
        (ProcessArgs(argv=["ls"], env={"\udcff": "a"}), "a name in env"),
    ],
)
def test_bytes_that_are_no_utf8_are_refused_with_the_name_of_the_field(
    args: ProcessArgs, where: str
) -> None:
    with pytest.raises(Refused, match=f"{where} has bytes that are not UTF-8") as refusal:
        encode_request(args)
    assert refusal.value.code == "field_invalid"
